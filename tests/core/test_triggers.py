"""Triggers: a grid of steps, seconds of a monotonic clock, or a predicate; and the wait after failures."""

from __future__ import annotations

import pytest

from async_ckpt.core.triggers import EverySecs, EverySteps, Retry, Trigger, WhenAsked, is_due, taken


@pytest.mark.parametrize(
    ("trigger", "step", "now", "wanted", "due"),
    [
        (EverySteps(5, last=7), 11, 0.0, False, False),
        (EverySteps(5, last=7), 12, 0.0, False, True),
        (EverySteps(2, last=0), 3, 0.0, False, True),
        (EverySecs(10.0, last=5.0), 1, 14.9, False, False),
        (EverySecs(10.0, last=5.0), 1, 15.0, False, True),
        (EverySecs(10.0), 1, 0.0, False, True),
        (WhenAsked(), 1, 0.0, False, False),
        (WhenAsked(), 1, 0.0, True, True),
    ],
)
def test_due(trigger: Trigger, step: int, now: float, wanted: bool, due: bool) -> None:
    assert is_due(trigger, step=step, now=now, wanted=wanted) is due


def test_taking_a_save_moves_the_grid_to_it() -> None:
    assert taken(EverySteps(5, last=0), step=7, now=1.0) == EverySteps(5, last=7)
    assert taken(EverySecs(5.0, last=0.0), step=7, now=1.0) == EverySecs(5.0, last=1.0)
    assert taken(WhenAsked(), step=7, now=1.0) == WhenAsked()


def test_the_wait_doubles_with_every_failure() -> None:
    retry = Retry()
    assert not retry.due
    assert retry.boundary() == retry
    waits = []
    for _ in range(5):
        retry = retry.failed()
        waited = 0
        while not retry.due:
            retry = retry.boundary()
            waited += 1
        waits.append(waited)
    assert waits == [1, 2, 4, 8, 16]
