"""The checker of the grammar: it accepts what is promised and finds each way of breaking it."""

from __future__ import annotations

import pytest

from tests.determinism.grammar import Call, Rules, check
from tests.determinism.replay import command
from tests.determinism.scenario import draw


def log(text: str) -> list[Call]:
    """``0.1 before 2`` for one whole call, ``!`` behind it for one that raised, ``(`` for its start alone."""
    calls = []
    for line in text.strip().split(","):
        who, phase, *rest = line.split()
        hook, listener = map(int, who.split("."))
        step = next((int(word) for word in rest if word.isdigit()), None)
        phase = {"before": "before_save", "after": "after_save"}.get(phase, phase)
        if ")" not in rest:
            calls.append(Call(hook, listener, phase, step, "start"))
        if "(" not in rest:
            calls.append(Call(hook, listener, phase, step, "failed" if "!" in rest else "done"))
    return calls


def rules(
    committed: dict[int, list[int]], listeners: tuple[int, ...] = (1,), blocking: tuple[bool, ...] = ()
) -> Rules:
    return Rules(listeners, blocking or (False,) * len(listeners), committed)


TWO = rules({0: [1], 1: [1]}, (1, 1))
BEGIN_TWO, END_TWO = "0.0 begin,1.0 begin,", ",0.0 end 1,1.0 end 1"


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("0.0 begin,0.0 end 0", rules({0: []})),
        ("0.0 begin,0.0 before 1,0.0 after 1,0.0 before 2,0.0 after 2,0.0 end 2", rules({0: [1, 2]})),
        ("0.0 begin,0.0 before 1,0.0 before 1,0.0 after 1,0.0 end 1", rules({0: [1]})),
        ("0.0 begin !", rules({0: []})),
        (
            "0.0 begin,0.1 begin,0.0 before 1,0.1 before 1,0.0 after 1 !,0.1 after 1,0.0 end 1,0.1 end 1",
            rules({0: [1]}, (2,)),
        ),
        (f"{BEGIN_TWO}0.0 before 1,1.0 before 1,0.0 after 1,1.0 after 1{END_TWO}", TWO),
        (
            f"{BEGIN_TWO}0.0 before 1,1.0 before 1,1.0 after 1,0.0 after 1{END_TWO}",
            rules({0: [1], 1: [1]}, (1, 1), (False, True)),
        ),
        (f"{BEGIN_TWO}1.0 before 1,1.0 after 1,0.0 before 1,0.0 after 1{END_TWO}", TWO),
    ],
)
def test_what_is_promised_is_accepted(text: str, given: Rules) -> None:
    check(log(text), given)


@pytest.mark.parametrize(
    ("text", "given", "complaint"),
    [
        ("0.0 begin,0.0 before 1 (,0.0 before 1 )", rules({0: []}), "no end"),
        ("0.0 before 1,0.0 end 1", rules({0: []}), "before_save@1"),
        ("0.0 begin,0.0 before 1,0.0 after 2,0.0 end 2", rules({0: [2]}), "without its before_save"),
        ("0.0 begin,0.0 after 2,0.0 end 2", rules({0: [2]}), "without its before_save"),
        (
            "0.0 begin,0.0 before 1,0.0 after 1,0.0 before 1,0.0 end 1",
            rules({0: [1]}),
            "again after it was saved",
        ),
        ("0.0 begin,0.0 before 2,0.0 before 1,0.0 end 1", rules({0: []}), "steps go back"),
        ("0.0 begin,0.0 end 0,0.0 end 0", rules({0: []}), "end in the middle"),
        ("0.0 begin !,0.0 end 0", rules({0: []}), "after its begin failed"),
        (
            "0.0 begin,0.1 begin,0.0 before 1 (,0.1 before 1,0.0 before 1 ),0.0 end 1,0.1 end 1",
            rules({0: []}, (2,)),
            "while",
        ),
        ("0.0 begin,0.0 end 0 (", rules({0: []}), "never ended"),
        ("0.0 begin,0.0 before 1,0.0 end 1", rules({0: [1]}), "committed"),
        ("0.0 begin,0.0 before 1,0.0 after 1,0.0 end 1", rules({0: []}), "committed"),
        (
            "0.0 begin,0.1 begin,0.0 before 1,0.1 before 1,0.0 after 1,0.0 end 1,0.1 end 1",
            rules({0: [1]}, (2,)),
            "left somebody out",
        ),
        (
            "0.0 begin,0.1 begin,0.1 before 1,0.0 before 1,0.0 end 1,0.1 end 1",
            rules({0: []}, (2,)),
            "out of order",
        ),
        ("1.0 begin,0.0 begin,0.0 end 1,1.0 end 1", rules({0: [], 1: []}, (1, 1)), "begin out of hook"),
        ("0.0 begin,1.0 begin,1.0 end 1,0.0 end 1", rules({0: [], 1: []}, (1, 1)), "end out of hook order"),
        (f"{BEGIN_TWO}0.0 before 1,1.0 before 1,1.0 after 1,0.0 after 1{END_TWO}", TWO, "out of hook order"),
        (
            f"{BEGIN_TWO}0.0 before 1,1.0 before 2,0.0 after 1,1.0 after 2{END_TWO}",
            rules({0: [1], 1: [2]}, (1, 1)),
            "a later round began",
        ),
        (
            f"{BEGIN_TWO}0.0 before 1,1.0 before 1,0.0 after 1,1.0 after 1{END_TWO}",
            rules({0: [1], 1: [1]}, (1, 1), (True, False)),
            "interrupted",
        ),
        ("0.0 begin,0.0 end 0,1.0 begin,1.0 end 0", rules({0: [], 1: []}, (1, 1)), "begin after"),
    ],
)
def test_each_way_of_breaking_it_is_found(text: str, given: Rules, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(log(text), given)


def test_a_scenario_is_drawn_alike_every_time() -> None:
    assert draw("rough", 17) == draw("rough", 17)
    assert len({draw("calm", number) for number in range(100)}) > 90


def test_the_command_that_replays_is_complete() -> None:
    assert command("rough", 4, 5, 6).endswith("python -m tests.determinism.replay rough 4 5 6")
    assert command("calm", 4, 5).endswith("python -m tests.determinism.replay calm 4 5")
