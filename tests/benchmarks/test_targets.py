"""Whether a target counts as met."""

from __future__ import annotations

import pytest

from benchmarks.records import Run
from benchmarks.targets import Target, targets
from tests.benchmarks.made import REFERENCE, SIZE, results, save, saves, values


def found(text: str, *runs: Run) -> Target:
    (target,) = [target for target in targets(results(*runs)) if target.text.startswith(text)]
    return target


@pytest.mark.parametrize(
    ("measured", "least", "verdict"),
    [
        ([1.0, 2.0], False, "met"),
        ([1.0, 2.0, 9.0], False, "met in the median"),
        ([3.0], False, "not met"),
        ([3.0, 2.0], True, "met"),
        ([1.0, 2.0, 3.0], True, "met in the median"),
        ([1.0], True, "not met"),
        ([], True, "not measured"),
        ([], False, "not measured"),
    ],
)
def test_the_median_decides_and_the_worst_value_is_told(
    measured: list[float], least: bool, verdict: str
) -> None:
    assert Target("", 2.0, "s", measured, least).verdict == verdict


def test_what_is_asked_is_told_with_its_unit() -> None:
    assert Target("", 2.0, "ms", []).asked == "≤ 2 ms"
    assert Target("", 0.9, "", [], least=True).asked == "≥ 0.9"


def test_without_any_run_every_target_is_there_and_not_measured() -> None:
    assert len(targets(results())) >= 20
    assert {target.verdict for target in targets(results())} == {"not measured"}


def test_throughput_is_compared_with_the_fastest_peer_round_by_round() -> None:
    ours = [saves("ours-copy", (0.1, 1.0)), saves("ours-copy", (0.1, 2.0), round=1)]
    slow = [saves("dcp-process", (0.1, 90.0)), saves("dcp-process", (0.1, 90.0), round=1)]
    fast = [saves("dcp-stager", (0.1, 3.0)), saves("dcp-stager", (0.1, 4.0), round=1)]
    assert found("durable throughput ÷ torch DCP", *ours, *slow, *fast).values == [3.0, 2.0]


def test_a_peer_that_failed_is_not_the_fastest() -> None:
    runs = (saves("ours-copy", (0.1, 1.0)), saves("orbax-jax", error="no"), saves("orbax-numpy", (0.1, 5.0)))
    assert found("durable throughput ÷ Orbax", *runs).values == [5.0]


def test_throughput_against_the_raw_disk_is_below_one_when_we_are_slower() -> None:
    runs = (saves("ours-copy", (0.1, 2.0)), saves("direct", (None, 1.0)))
    target = found("durable throughput ÷ bare O_DIRECT", *runs)
    assert target.values == [0.5]
    assert target.verdict == "not met"


def test_the_stall_is_compared_with_the_bare_copy() -> None:
    target = found("`copy`: stall", saves("ours-copy", (0.13, 1.0)), saves("copyto", (0.1, None)))
    assert target.values == pytest.approx([1.3])


def test_the_first_save_is_compared_with_the_median_of_the_later_ones() -> None:
    run = values("warmup", first_stall=[0.4], later_stall=[0.1, 0.2, 0.3])
    assert found("stall of the first save", run).values == pytest.approx([2.0])


def test_memory_is_measured_beyond_64_mib() -> None:
    run = saves("ours-copy", (0.1, 1.0), memory_base=0, memory_peak=SIZE + 64 * 2**20)
    assert found("extra memory less", run).values == pytest.approx([1.0])


def test_growth_compares_the_last_fifth_of_the_saves_with_the_second() -> None:
    resident = [0.0, 0.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0 + SIZE / 100, 10.0 + SIZE / 100]
    runs = (values("flat", resident=resident), saves("copyto", (0.1, None)))
    assert found("growth", *runs).values == pytest.approx([1.0])


def test_a_restore_is_compared_with_what_the_machine_did_in_the_same_repeat() -> None:
    run = values(
        "restore",
        cold_read=[2.0],
        cold_read_direct=[0.9],
        cold_restore=[1.0],
        warm_restore=[0.5],
        warm_undigested=[0.32],
        copy=[0.4],
    )
    assert found("restore in place, cold ÷ bare", run).values == pytest.approx([2.0])
    assert found("restore in place, cold ÷ the same read", run).values == pytest.approx([0.9])
    assert found("restore in place, warm, digests included", run).values == pytest.approx([0.8])
    assert found("restore in place, warm, digests apart", run).values == pytest.approx([1.25])


def test_the_save_call_is_the_overlapping_one() -> None:
    run = saves("ours-overlap")
    run.saves = [save(0.1, 1.0, parts={"call": secs}) for secs in (0.5, 0.001)]
    target = found("`overlap`: the save call", run)
    assert target.values == pytest.approx([1.0])
    assert run.saves[0].state == REFERENCE


def test_the_first_save_counts_where_the_loop_is_held() -> None:
    run = saves("ours-copy")
    run.saves = [save(0.1, 1.0, gap=secs) for secs in (0.1, 0.001, 0.002)]
    target = found("`copy`: largest gap", run)
    assert target.values == pytest.approx([100.0, 1.0, 2.0])
    assert target.verdict == "met in the median"
