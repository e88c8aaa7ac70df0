"""Requests to stop: from the loop, from a thread, by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.stopping import StopFlag
from async_ckpt.session.signals import SignalWatch

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["Stopping"]


class Stopping:
    """What the session does about its stop.

    Attributes:
        flag: What was decided, and what is known of it.
    """

    def __init__(self, session: MonitoredTrainingSession, handle_signals: Iterable[int]) -> None:
        self.flag = StopFlag()
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = SignalWatch(handle_signals, self._on_signal)

    def listen(self) -> None:
        """From now on requests may come from other threads and as signals."""
        self._loop = asyncio.get_running_loop()
        self._signals.install()

    def restore_handlers(self) -> None:
        """Give the signals back to those who had them."""
        self._signals.restore()

    def request(self, reason: str) -> None:
        """Ask for the stop; safe from any thread."""
        if self._loop is not None and not _running_in(self._loop):
            # A loop that is closed has left nothing behind that could be stopped.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ask, reason)
        else:
            self._ask(reason)

    def decided(self, reason: str) -> None:
        """The machine has decided."""
        host = self._session._host
        self.flag.decided = reason
        host.emit(events.StopDecided, step=host.global_step, reason=reason)

    def _ask(self, reason: str) -> None:
        self._session._scheduler.tell(p.StopRequested(reason))
        self.flag.asked = True
        if not self._session._steps.under_way:
            self.flag.publish_asked()

    def _on_signal(self, number: signal.Signals, count: int) -> None:
        task = self._session._life.task
        host = self._session._host
        host.emit(events.SignalReceived, step=host.global_step, signal=number.name, count=count)
        if count == 1:
            self.request(f"signal {number.name}")
        elif task is not None:
            task.cancel()


def _running_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
