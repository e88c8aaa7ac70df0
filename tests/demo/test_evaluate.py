"""The listener of the demo judges what the checkpoint holds, and votes at its goal."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from async_ckpt import MonitoredTrainingSession, Stop
from async_ckpt.cli.demo import data, model
from async_ckpt.cli.demo.evaluate import Evaluator

RIGHT = {f"w{layer}": np.eye(10, dtype=np.float32) for layer in (1, 2, 3)}
ZEROS = {f"b{layer}": np.zeros(10, dtype=np.float32) for layer in (1, 2, 3)}
WRONG = {**RIGHT, "w3": np.roll(np.eye(10, dtype=np.float32), 1, axis=1)}


class Session:
    """As much of a session as a listener sees inside ``after_save``."""

    def __init__(self, params: model.Params) -> None:
        self._params = params
        self.reported: dict[str, float] = {}

    async def saved_state(self) -> dict[str, Any]:
        return {"model": self._params}

    def report(self, metrics: dict[str, float]) -> None:
        self.reported |= metrics


def evaluator(goal: float, seen: list[tuple[int, float]] | None = None) -> Evaluator:
    images, labels = np.eye(10, dtype=np.float32), np.arange(10)
    record = [] if seen is None else seen
    return Evaluator(data.Digits(images, labels, images, labels), goal, lambda *pair: record.append(pair))


async def after_save(listener: Evaluator, right: bool, step: int) -> tuple[Any, Session]:
    session = Session({**(RIGHT if right else WRONG), **ZEROS})
    return await listener.after_save(cast(MonitoredTrainingSession, session), step), session


@pytest.mark.asyncio
async def test_it_reports_the_accuracy_of_the_saved_weights_and_votes_at_the_goal() -> None:
    seen: list[tuple[int, float]] = []
    listener = evaluator(0.97, seen)
    vote, session = await after_save(listener, False, 20)
    assert (vote, session.reported, listener.reached) == (None, {"accuracy": 0.0}, False)
    vote, session = await after_save(listener, True, 40)
    assert vote == Stop("accuracy 100.0% on held-out digits")
    assert session.reported == {"accuracy": 1.0}
    assert seen == [(20, 0.0), (40, 1.0)]
    assert listener.reached
    await listener.end(cast(MonitoredTrainingSession, session), 40)


@pytest.mark.asyncio
async def test_without_a_goal_it_never_votes() -> None:
    listener = evaluator(0.0)
    vote, session = await after_save(listener, True, 20)
    assert vote is None
    assert not listener.reached
    await listener.end(cast(MonitoredTrainingSession, session), 20)


@pytest.mark.asyncio
async def test_the_best_of_an_earlier_run_is_known_to_the_next() -> None:
    first = evaluator(0.97)
    _, session = await after_save(first, True, 40)
    _, _ = await after_save(first, False, 60)
    await first.end(cast(MonitoredTrainingSession, session), 60)
    assert (first.best, first.best_step) == (1.0, 40)
    second = evaluator(0.97)
    assert not second.reached
    second.load_state_dict(first.state_dict())
    assert (second.best, second.best_step, second.reached) == (1.0, 40, True)
