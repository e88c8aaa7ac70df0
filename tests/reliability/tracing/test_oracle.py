"""The oracle of the tiers ``errno`` and ``kill`` objects to every mark that breaks a promise."""

from __future__ import annotations

import pytest

from tests.reliability.tracing.faults import CODES, TIMES, Fault
from tests.reliability.tracing.oracle import Oracle
from tests.reliability.tracing.scenarios import Scenario, act

KEEP_ONE = Scenario("keep one", (), act("save 1"), {"max_to_keep": 1})
KEEP_ALL = Scenario("keep all", (), act("save 1, save 2"), {"max_to_keep": None})


def begun(kind: str, step: int, code: int = 0) -> str:
    return f"begin/{kind}/{step}/{code}"


def said(kind: str, step: int, verdict: str = "ok", found: str = "", code: int = 0) -> list[str]:
    return [begun(kind, step, code), f"{kind}/{step}/{code}/{verdict}/{found}"]


def judged(scenario: Scenario, *lives: list[str]) -> list[str]:
    """Hear lives; every one but the last was cut short."""
    oracle = Oracle.of(scenario, strict=True)
    for life in lives[:-1]:
        oracle.hear(life)
        oracle.killed()
    oracle.hear(lives[-1])
    return oracle.wrong


SAVED = said("save", 3, code=301)


@pytest.mark.parametrize(
    ("scenario", "lives"),
    [
        (KEEP_ALL, [[*SAVED, *said("list", -1, found="1=151+2=252+3=301")]]),
        (KEEP_ALL, [[*said("delete", 1), *said("list", -1, found="2=252")]]),
        (KEEP_ALL, [[*said("pin", 1), *said("delete", 1, "ProtocolError")]]),
        (KEEP_ALL, [[*said("abandon", 1), *said("list", -1, found="1=151")]]),
        (KEEP_ALL, [[begun("save", 2, 205)], said("list", -1, found="1=151+2=252")]),
        (KEEP_ALL, [[begun("save", 2, 205)], said("list", -1, found="1=151+2=205")]),
        (KEEP_ALL, [[begun("delete", 2)], said("list", -1, found="1=151")]),
        (KEEP_ALL, [[begun("abandon", 1)], said("list", -1, found="1=151")]),
        (KEEP_ONE, [[*SAVED, *said("list", -1, found="3=301")]]),
        (KEEP_ONE, [[begun("save", 3, 301)], said("list", -1, found="3=301")]),
        (KEEP_ONE, [[begun("save", 3, 301)], said("list", -1, found="1=151")]),
        (KEEP_ONE, [[begun("save", 3, 301)], [begun("save", 8, 801)], said("list", -1, found="8=801")]),
        (Scenario("empty", ()), [said("restore", -1, "NoCheckpointError")]),
        (KEEP_ALL, [said("restore", -1, found="2=252")]),
    ],
)
def test_what_may_be_is_accepted(scenario: Scenario, lives: list[list[str]]) -> None:
    assert judged(scenario, *lives) == []


@pytest.mark.parametrize(
    ("scenario", "lives"),
    [
        (KEEP_ALL, [said("list", -1, found="1=151")]),
        (KEEP_ALL, [said("list", -1, found="1=151+2=999")]),
        (KEEP_ALL, [said("list", -1, found="1=151+2=252+7=701")]),
        (KEEP_ALL, [[*SAVED, *said("list", -1, found="1=151+2=252")]]),
        (KEEP_ALL, [[*said("delete", 1), *said("list", -1, found="1=151+2=252")]]),
        (KEEP_ALL, [[*said("pin", 1), *said("delete", 1)]]),
        (KEEP_ALL, [[begun("cancel", 3, 301)], said("list", -1, found="1=151+2=252+3=301")]),
        (KEEP_ALL, [[begun("save", 2, 205)], said("list", -1, found="1=151")]),
        (KEEP_ALL, [[begun("abandon", 1)], said("list", -1, found="2=252")]),
        (KEEP_ONE, [[begun("save", 3, 301)], said("list", -1, found="")]),
        (KEEP_ONE, [[begun("save", 3, 301)], [begun("save", 8, 801)], said("list", -1, found="")]),
        (KEEP_ALL, [said("restore", -1, "NoCheckpointError")]),
        (KEEP_ALL, [said("restore", -1, found="1=151")]),
        (KEEP_ALL, [said("restore", 2, found="2=999")]),
        (KEEP_ALL, [said("save", 3, "failed")]),
        (KEEP_ALL, [said("save", 3, "ALIEN-OSError()")]),
        (KEEP_ALL, [["left/open /d/runs/.lock"]]),
    ],
)
def test_what_cannot_be_is_objected_to(scenario: Scenario, lives: list[list[str]]) -> None:
    assert judged(scenario, *lives) != []


def test_while_calls_fail_errors_are_fine_and_afterwards_they_are_not() -> None:
    oracle = Oracle.of(KEEP_ALL, strict=False)
    oracle.hear([*said("save", 3, "failed"), *said("save", 2, "unknown", code=205), "calm"])
    oracle.hear(said("list", -1, found="1=151+2=205"))
    assert oracle.wrong == []
    oracle.hear(said("save", 9, "failed"))
    assert oracle.wrong == ["save 9: failed, and nothing failed"]


def test_a_failed_save_leaves_nothing_under_its_step() -> None:
    oracle = Oracle.of(KEEP_ALL, strict=False)
    oracle.hear([*said("save", 3, "failed", code=301), "calm", *said("list", -1, found="1=151+2=252+3=301")])
    assert len(oracle.wrong) == 1


def test_a_fault_hits_the_call_it_names_and_those_of_its_name_that_follow() -> None:
    def hits(fault: Fault, names: str) -> list[int]:
        found: list[int] = []
        hit = None
        for number, name in enumerate(names, 1):
            if fault.verdict(number, name, hit, len(found)) != "let":
                hit = hit or name
                found.append(number)
        return found

    assert hits(Fault("EIO", 2, TIMES["once"]), "abbabb") == [2]
    assert hits(Fault("EIO", 2, TIMES["twice"]), "abbabb") == [2, 3]
    assert hits(Fault("EIO", 2, TIMES["for ever"]), "abbabb") == [2, 3, 5, 6]
    assert hits(Fault("EIO", 9), "abbabb") == []
    assert len(hits(Fault("EINTR", 1, TIMES["for ever"]), "a" * 99)) < 99
    assert {Fault(kind).code for kind in CODES} == {5, 28, 122, 4, 24, 13, 30, 116}
