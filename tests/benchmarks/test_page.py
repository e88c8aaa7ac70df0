"""The page is made from raw results alone."""

from __future__ import annotations

import re

import msgspec
import pytest

from benchmarks.page import PLOTS, page
from benchmarks.plan import COMPARED, QUICK, jobs
from benchmarks.records import Results, Run, Save, decode, encode
from benchmarks.states import spec
from benchmarks.systems import SYSTEMS
from tests.benchmarks.made import REFERENCE, results, saves, values


def everything() -> Results:
    """One run of every job of a plan, with a figure for whatever can be measured."""
    runs = []
    for job in jobs(QUICK):
        run = Run(job=job, memory_base=0, memory_peak=10, foreign=0.01)
        if job.experiment == "save":
            for name in job.states:
                one = Save(
                    state=name,
                    bytes=spec(name).nbytes,
                    stall=0.1,
                    durable=0.5,
                    unsynced=0.0,
                    gap=0.001,
                    gap_p999=0.001,
                    parts={"call": 0.001},
                )
                run.saves += [one, one]
        runs.append(run)
    others = (
        values(
            "overlap", "ours-overlap", step=[0.3], lost=[0.01], call=[0.002], plain_call=[0.001], wait=[0.0]
        ),
        values("warmup", first_stall=[0.2], later_stall=[0.1], first_durable=[1.0], later_durable=[1.0]),
        values("flat", resident=[float(n) for n in range(10)]),
        values(
            "sessions", "ours-engine", **{"bytes": [1e6], "all 2": [0.5], "each 2": [0.4], "gap 2": [0.01]}
        ),
        values("restore", bytes=[1e6], cold_read=[1.0], warm_restore=[0.5], only=[0.01]),
        values("reuse", bytes=[1e6], whole_written=[1e6], reused_written=[1e5]),
        values("slowdown", "dcp-thread", lost=[0.3], whole=[0.4]),
        values("cost", advance=[2e-6], listener=[1e-5]),
    )
    return results(*runs, *others)


def test_it_survives_being_kept() -> None:
    found = everything()
    assert page(decode(encode(found))) == page(found)


def test_a_file_that_is_something_else_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"command": 1}')


def tables_of(text: str) -> list[list[str]]:
    """Each table's lines."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)]


@pytest.mark.parametrize("failed", [False, True])
def test_every_table_has_as_many_cells_in_each_row_as_in_its_head(failed: bool) -> None:
    broken = results(*[saves(system, error="a | b") for system in COMPARED])
    found = tables_of(page(broken if failed else everything()))
    assert len(found) >= 4
    for lines in found:
        assert set(lines[1]) == {"|", "-"}
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines


def test_every_system_of_the_plan_has_a_row_and_a_meaning_of_durable() -> None:
    text = page(everything())
    for system in COMPARED:
        assert text.count(f"| {SYSTEMS[system].label} |") >= 3, system


def test_a_system_that_failed_is_shown_with_its_reason() -> None:
    text = page(results(saves("orbax-jax", error="ImportError: no <module>\n| named so")))
    assert f"| {SYSTEMS['orbax-jax'].label} | failed: ImportError: no &lt;module> \\| named so |" in text
    assert f"- save orbax-jax {REFERENCE}: ImportError" in text


def test_a_system_that_failed_half_way_shows_what_was_measured_and_a_mark() -> None:
    text = page(results(saves("torchsnapshot", (0.1, 1.0), error="the disk is full")))
    assert f"| {SYSTEMS['torchsnapshot'].label} † | 100 |" in text
    assert "the disk is full" in text


def test_notes_are_repeated_once() -> None:
    runs = [saves("direct", (None, 1.0), notes=["no time for more"]) for _ in range(2)]
    assert page(results(*runs)).count("no time for more") == 1


def test_small_states_are_said_to_mean_nothing() -> None:
    assert "mean nothing" in page(results(quick=True))
    assert "mean nothing" not in page(results(quick=False))


def test_only_plots_that_were_drawn_are_shown() -> None:
    assert "![" not in page(everything(), [])
    assert page(everything(), ["stall"]).count("![") == 1
    assert page(everything()).count("![") == len(PLOTS)


def test_the_command_and_the_machine_are_told() -> None:
    text = page(results())
    for fact in ("`nox -s bench`", "2020-01-01 00:00 UTC", "a processor, 2 cores", "16 GiB", "ext4 on vda"):
        assert fact in text


def test_remarks_stand_below_the_targets() -> None:
    text = page(results(), [], "The copy is held up by the disk.\n")
    assert (
        text.index("What was asked for") < text.index("held up by the disk") < text.index("A training state")
    )
