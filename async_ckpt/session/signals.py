"""Turns signals into a stop request, then into a cancellation, and puts everything back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["SignalWatch"]


class SignalWatch:
    """Holds handlers for some signals while a session is open.

    Python-level handlers are used, not ``loop.add_signal_handler``: that one forgets what was there
    before. The handler itself only wakes the loop.
    """

    def __init__(self, signals: Iterable[int], on_signal: Callable[[signal.Signals, int], None]) -> None:
        self._signals = tuple(signal.Signals(number) for number in signals)
        self._on_signal = on_signal
        self._previous: dict[signal.Signals, Any] = {}
        self._loop_handlers: dict[signal.Signals, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0

    def install(self) -> None:
        """Take the signals over.

        Raises:
            ValueError: This is not the main thread, or a signal cannot be handled.
            OSError: A signal cannot be handled.
        """
        self._loop = asyncio.get_running_loop()
        on_loop = getattr(self._loop, "_signal_handlers", {})
        try:
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._wake)
                if number in on_loop:
                    # Left in place it would fire beside ours, through the loop's wake-up pipe.
                    self._loop_handlers[number] = on_loop.pop(number)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Bring the previous handlers back; harmless when nothing is installed."""
        on_loop = getattr(self._loop, "_signal_handlers", {})
        while self._previous:
            number, previous = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        while self._loop_handlers:
            number, handle = self._loop_handlers.popitem()
            on_loop[number] = handle

    def _wake(self, number: int, _: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._received, signal.Signals(number))

    def _received(self, number: signal.Signals) -> None:
        if self._previous:
            self._count += 1
            self._on_signal(number, self._count)
