"""A listener class as it was written for TensorFlow, handed to a session without a change."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession


class CheckpointSaverListener:
    """Stands where ``tf.compat.v1.train.CheckpointSaverListener`` stood: four methods that do nothing."""

    def begin(self):  # type: ignore[no-untyped-def]
        pass

    def before_save(self, session, global_step_value):  # type: ignore[no-untyped-def]
        pass

    def after_save(self, session, global_step_value):  # type: ignore[no-untyped-def]
        pass

    def end(self, session, global_step_value):  # type: ignore[no-untyped-def]
        pass


class PatienceListener(CheckpointSaverListener):
    """Stops when a loss has not become better for a number of checkpoints."""

    def __init__(self, losses, patience):  # type: ignore[no-untyped-def]
        self._losses = iter(losses)
        self._patience = patience
        self.calls = []
        self.threads = set()

    def begin(self):  # type: ignore[no-untyped-def]
        self._best = float("inf")
        self._worse = 0
        self._note("begin")  # type: ignore[no-untyped-call]

    def before_save(self, session, global_step_value):  # type: ignore[no-untyped-def]
        self._note("before", global_step_value)  # type: ignore[no-untyped-call]

    def after_save(self, session, global_step_value):  # type: ignore[no-untyped-def]
        self._note("after", global_step_value)  # type: ignore[no-untyped-call]
        loss = next(self._losses)
        self._worse = 0 if loss < self._best else self._worse + 1
        self._best = min(self._best, loss)
        return self._worse >= self._patience

    def end(self, session, global_step_value):  # type: ignore[no-untyped-def]
        self._note("end", global_step_value)  # type: ignore[no-untyped-call]

    def _note(self, *call):  # type: ignore[no-untyped-def]
        self.calls.append(call)
        self.threads.add(threading.current_thread())


class OtherNames:
    """Only what it needs, with parameter names of its own: TensorFlow calls by position."""

    def __init__(self) -> None:
        self.seen: list[tuple[type, int]] = []

    def after_save(self, sess: Any, number: int) -> None:
        self.seen.append((type(number), number))


@pytest.mark.asyncio
@pytest.mark.loop_flavours
async def test_a_tensorflow_listener_works_unchanged(tmp_path: Path) -> None:
    listener = PatienceListener([3.0, 2.0, 2.5, 2.4, 1.0], patience=2)  # type: ignore[no-untyped-call]
    other = OtherNames()
    hook = CheckpointSaverHook(
        tmp_path, {"w": np.zeros(3)}, save_steps=2, listeners=[listener, other], blocking=True
    )
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        while not session.should_stop():
            await session.advance()
    assert session.global_step == 6
    assert listener.calls == [
        ("begin",), ("before", 0), ("after", 0), ("before", 2), ("after", 2), ("before", 4), ("after", 4),
        ("before", 6), ("after", 6), ("end", 6),
    ]  # fmt: skip
    assert other.seen == [(int, 0), (int, 2), (int, 4), (int, 6)]
    assert listener.threads, "it was called"
    assert threading.current_thread() not in listener.threads, "plain methods never block the loop"
    assert len(listener.threads) == 1, "always the same thread"
    assert [vote.listener for vote in session.votes] == ["PatienceListener-0"]
