"""Bars in the terminal while saves are written, and a line for each that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt import events
from async_ckpt.events import Event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["RichProgress"]


class RichProgress:
    """Shows each save in flight as a bar with bytes, rate and time left; needs the ``cli`` extra.

    Drawn when something is told, so it starts no thread. The bars go when the session ends.

    Args:
        console: Where to; standard error by default.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    kinds = (
        events.SaveStaged,
        events.SaveProgress,
        events.SaveCommitted,
        events.SaveFailed,
        events.SaveUnknown,
        events.SessionEnded,
    )

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console  # noqa: PLC0415 - optional
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Draw what changed."""
        match event:
            case events.SaveStaged():
                self._remove(event.directory)
                self._progress.start()
                bar = self._progress.add_task(f"step {event.step}", total=event.bytes)
                self._bars[event.directory] = bar
            case events.SaveProgress() if event.directory in self._bars:
                bar = self._bars[event.directory]
                self._progress.update(bar, completed=event.bytes_done, total=event.bytes_total)
            case events.SaveCommitted():
                self._remove(event.directory)
                rate = event.bytes / event.seconds / 1e6 if event.seconds > 0 else 0.0
                line = (
                    f"step {event.step} is durable: {event.bytes / 1e6:.1f} MB, {rate:.0f} MB/s, {event.path}"
                )
                self._say(line)
            case events.SaveFailed() | events.SaveUnknown():
                self._remove(event.directory)
                what = "failed" if isinstance(event, events.SaveFailed) else "may or may not be durable"
                self._say(f"step {event.step} {what}: {event.reason}")
            case events.SessionEnded():
                self._progress.stop()
                return
            case _:
                return
        self._progress.refresh()

    def _remove(self, directory: str) -> None:
        bar = self._bars.pop(directory, None)
        if bar is not None:
            self._progress.remove_task(bar)

    def _say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
