"""A training session that saves when it is told to, and tells how long everything took."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver, events
from benchmarks.states import Arrays

__all__ = ["Training"]


class Training:
    """One session with one saver hook; nothing is saved at its entry or its exit.

    Attributes:
        due: Whether the next boundary saves.
        held: Seconds that boundaries which saved took, one after the other.
        durable: Seconds from the request to the commit, one for each save.
    """

    def __init__(self, where: Path | Saver, state: Arrays, **options: Any) -> None:
        self.due = False
        self.held: list[float] = []
        self.durable: list[float] = []
        self.hook = CheckpointSaverHook(
            where, state, save_when=self._is_due, initial_save="never", restore=None, **options
        )
        self.session = MonitoredTrainingSession(hooks=[self.hook], final_save="never", grace_secs=600)
        self.session.subscribe(self._on_event)

    async def __aenter__(self) -> Self:
        await self.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.__aexit__(kind, error, trace)

    async def save(self) -> None:
        """Take one step that computes nothing and saves, and wait until the checkpoint is durable."""
        self.due = True
        began = time.perf_counter()
        await self.session.advance()
        self.held.append(time.perf_counter() - began)
        await self.session.drain()

    def _is_due(self, _session: MonitoredTrainingSession) -> bool:
        due, self.due = self.due, False
        return due

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, events.SaveCommitted):
            self.durable.append(event.seconds)
