"""The page is made from what was counted, and from nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.records import Machine
from tests.reliability.__main__ import GATE, main
from tests.reliability.report.comparisons import comparisons
from tests.reliability.report.page import TIERS, in_short, page
from tests.reliability.report.readme import README_BEGIN, README_END, in_readme
from tests.reliability.report.records import Entry, Results, Run, decode, encode, load
from tests.reliability.report.running import TREE, folder_of, folders, run_tier

TEMPLATE = Path(__file__).with_name("template.md").read_text(encoding="utf-8")
MACHINE = Machine(
    processor="p", cores=2, memory=1, kernel="k", disk="d", python="py", versions={"numpy": "2"}
)


def entry(tier: str, cases: int = 100, **more: Any) -> Entry:
    return Entry(tier=tier, what=f"{tier} | things", size="ci", seed=7, cases=cases, seconds=1.5, **more)


def run(folder: str, *entries: Entry, size: str = "ci", passed: bool = True) -> Run:
    return Run(
        folder=folder,
        size=size,
        command=f"run {folder}",
        began="2026-01-02 03:04 UTC",
        seconds=2.0,
        revision="abc",
        machine=MACHINE,
        tools={"strace": "6.1"},
        passed=passed,
        entries=list(entries),
    )


KILLED = {
    "safeguard": "one",
    "file": "a.py",
    "killer": "order",
    "cases": 3,
    "seconds": 1,
    "finding": "AssertionError: x",
}
RESULTS = Results(
    [
        run("power_cut", entry("power cut", distinct=300), entry("power cut", 200, distinct=100)),
        run("errno", entry("errno", skipped="no <kernel> for it"), entry("errno", 50)),
        run(
            "mutants",
            entry("mutants", 1, facts=KILLED),
            entry("mutants", 1, failure="Failed: SURVIVED", facts={"safeguard": "two", "file": "b.py"}),
        ),
    ]
)


def written(results: Results) -> str:
    return page(results, TEMPLATE, comparisons(Path("nowhere")))


def rows(text: str, start: str) -> list[list[str]]:
    found = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found]


def test_the_counts_of_a_tier_are_added_up_and_the_bound_goes_by_what_was_distinct() -> None:
    row = rows(written(RESULTS), "power cut | ci")[0]
    assert row[:8] == ["power cut", "ci", "300", "400", "0", "0", "< 0.75 %", "3"]
    assert row[8] == "7"


def test_what_was_not_tried_is_said_with_the_reason() -> None:
    text = written(RESULTS)
    assert rows(text, "errno | ci")[0][:7] == ["errno", "ci", "150", "-", "0", "1", "-"]
    assert "- errno, ci: errno \\| things: no &lt;kernel> for it" in text


def test_a_tier_without_a_run_is_named_and_every_tier_is_explained() -> None:
    text = written(RESULTS)
    assert "- kill-random: in none of these runs" in text
    assert "- errno: in none" not in text
    explained = [row[0] for row in rows(TEMPLATE.partition("## What is promised")[0], "") if len(row) == 3]
    assert explained[1:] == [*TIERS]


def test_a_failure_is_never_called_a_success() -> None:
    assert "none failed" in written(Results([run("errno", entry("errno"))]))
    failed = entry("power cut", failure="AssertionError: lost")
    for results in (
        Results([run("power_cut", failed, passed=False)]),
        Results([run("power_cut", entry("power cut"), passed=False)]),
    ):
        text = written(results)
        assert "none failed" not in text
        assert rows(text, "power cut | ci")[0][4].startswith("**")
    assert rows(written(Results([run("power_cut", failed)])), "power cut | ci")[0][6] == "-"


def test_mutants_stand_in_a_table_of_their_own() -> None:
    text = written(RESULTS)
    assert "1 of 2 were found out." in text
    assert rows(text, "one")[0] == ["one", "`a.py`", "order", "3", "1", "AssertionError: x"]
    assert rows(text, "two")[0][2] == "**survived**"
    assert not rows(text, "mutants")


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head() -> None:
    text = written(RESULTS)
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_without_a_run_the_page_says_so() -> None:
    text = written(Results())
    assert "Nothing has been run yet." in text
    assert "{{" not in text


def test_a_template_that_asks_for_what_nobody_has_is_refused() -> None:
    with pytest.raises(KeyError, match="moon"):
        page(RESULTS, "{{moon}}", {})


def test_results_are_kept_by_tier_and_size(tmp_path: Path) -> None:
    results = Results()
    for passed in (True, False):
        results.keep(run("errno", passed=passed))
    results.keep(run("errno", size="long"))
    assert [(kept.size, kept.passed) for kept in results.runs] == [("ci", False), ("long", True)]
    (tmp_path / "kept.json").write_bytes(encode(results))
    assert load(tmp_path / "kept.json") == decode(encode(results)) == results
    assert load(tmp_path / "absent.json") == Results()
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"runs": 1}')


def test_tiers_are_found_however_their_names_are_spelled() -> None:
    assert folder_of("hostile bytes") == folder_of("hostile-bytes") == "hostile_bytes"
    assert folder_of("no such tier") is None
    assert "report" not in folders()
    assert {"order", "mutants"} <= set(folders())


def test_a_run_is_told_in_a_few_lines() -> None:
    said = in_short(RESULTS.runs[1])
    assert "errno: 150 cases, 0 failed, 1 not tried here" in said
    assert "passed" in said
    assert "FAILED" in in_short(run("errno", passed=False))


def test_the_readme_says_what_was_counted_and_nothing_else_in_it_changes() -> None:
    before = f"above\n{README_BEGIN}\nold\n{README_END}\nbelow\n"
    after = in_readme(before, RESULTS)
    assert after.startswith(f"above\n{README_BEGIN}\nThe promises are held by 2 tiers")
    assert after.endswith(f"\n{README_END}\nbelow\n")
    assert "450 cases were judged" in " ".join(after.split())
    assert "1 of 2 safeguards" in " ".join(after.split())
    assert "old" not in after
    assert in_readme(after, RESULTS) == after
    assert in_readme("nothing here", RESULTS) == "nothing here"


KEPT = TREE / "docs" / "reliability"


@pytest.mark.skipif(not (KEPT / "results.json").exists(), reason="nothing was run yet")
def test_page_and_readme_are_those_of_the_kept_results() -> None:
    results = load(KEPT / "results.json")
    assert (KEPT.parent / "reliability.md").read_text("utf-8") == page(results, TEMPLATE, comparisons(KEPT))
    readme = (TREE / "README.md").read_text("utf-8")
    assert in_readme(readme, results) == readme


def test_a_comparison_is_spelled_by_who_measured_it(tmp_path: Path) -> None:
    kept = TREE / "docs" / "reliability" / "bit_flip.json"
    (tmp_path / kept.name).write_bytes(kept.read_bytes())
    made = comparisons(tmp_path)
    assert "| async_ckpt" in made["bit flip"]()
    assert "Not measured yet" in made["power cut"]()


def test_a_tier_is_run_in_a_process_of_its_own() -> None:
    run = run_tier("order/test_log.py", "quick", processes=0)
    assert not run.passed, "there is no such file"
    run = run_tier("order/test_rules.py", "quick", processes=0)
    assert (run.passed, run.size, run.entries) == (True, "quick", [])
    assert run.command.endswith("tests/reliability/order/test_rules.py")
    assert run.cpu_seconds > 0


def test_a_tier_that_is_not_there_fails_the_command_and_the_page_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["tests.reliability", "no such tier", "--out", str(tmp_path)])
    assert main() == 1
    assert "there is no tier 'no such tier'" in capsys.readouterr().out
    assert "Nothing has been run yet." in (tmp_path / "reliability.md").read_text("utf-8")


def test_the_gate_names_tiers_that_are_explained() -> None:
    assert {*GATE} - {"mutants"} <= {*TIERS}
