"""Two faces of one view: a panel that is redrawn in place, and plain lines for everything else."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from async_ckpt import events
from async_ckpt.system.threads import Worker, spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from async_ckpt.cli.demo.view import Saved, View

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "choose"]

FRAME_SECONDS = 0.1


class Display(Protocol):
    """Where a run shows itself; entered before the session, left after it."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def tell(self, event: events.Event) -> None:
        """Show an event that the view has already taken in."""

    def measured(self, step: int, accuracy: float, saved: Saved | None) -> None:
        """Show how good checkpoint ``step`` is; ``saved`` is None if an earlier run saved it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def choose(view: View, *, plain: bool, on_closed: Callable[[], None]) -> Display:
    """Return the panel where standard output is a capable terminal, else plain lines.

    Args:
        view: What to show.
        plain: Plain lines in any case.
        on_closed: Called once when whoever reads the lines has gone away.
    """
    if plain or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return PlainDisplay(view, sys.stdout, on_closed)
    return LiveDisplay(view)


class PlainDisplay:
    """One line for each thing worth a line, flushed at once.

    A ``saved`` line is printed only when the checkpoint is durable, so whoever reads it may rely on
    the checkpoint even if the process is killed right after.
    """

    def __init__(self, view: View, out: TextIO, on_closed: Callable[[], None]) -> None:
        self._view = view
        self._out = out
        self._on_closed = on_closed
        self._closed = False

    def say(self, line: str) -> None:
        if self._closed:
            return
        try:
            print(line, file=self._out, flush=True)
        except BrokenPipeError:
            # The interpreter flushes standard output once more on its way out; give it a place.
            self._closed = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._out.fileno())
            os.close(nowhere)
            self._on_closed()

    def tell(self, event: events.Event) -> None:
        match event:
            case events.StopVoted(step=step, listener=listener, reason=reason):
                self.say(f"vote step={step} by={listener} reason={reason or 'stop'}")
            case events.SignalReceived(signal=signal, count=1):
                self.say(f"{signal}: one more save, then it stops; a second one stops it at once")
            case events.SaveFailed() | events.SaveUnknown() | events.CheckpointRejected():
                self.say(_trouble(self._view))
            case events.CheckpointDeleted(step=step):
                self.say(f"deleted step={step}")
            case events.CheckpointsAbandoned(steps=steps):
                self.say(f"set aside steps={','.join(map(str, steps))}")
            case _:
                pass

    def measured(self, step: int, accuracy: float, saved: Saved | None) -> None:
        if saved is None:
            self.say(f"evaluated step={step} accuracy={accuracy:.6f}")
            return
        loss = "" if self._view.loss is None else f" loss={self._view.loss:.4f}"
        self.say(
            f"saved step={step} bytes={saved.bytes} accuracy={accuracy:.6f}{loss} seconds={saved.seconds:.4f}"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _trouble(view: View) -> str:
    return f"trouble: {view.trouble}"


class LiveDisplay:
    """A panel redrawn ten times a second from a thread, so that a slow terminal holds up nobody."""

    def __init__(self, view: View) -> None:
        from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

        from async_ckpt.cli.demo.panel import Panel  # noqa: PLC0415

        self._view = view
        # What is logged meanwhile goes above the panel, which would be torn by it otherwise.
        self._live = Live(Panel(view), auto_refresh=False, redirect_stdout=False)
        self._worker = Worker("demo-display")
        self._over = asyncio.Event()
        self._drawing: asyncio.Task[None] | None = None

    def say(self, line: str) -> None:
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def tell(self, event: events.Event) -> None:
        # Whole and to stay: the panel has room for the beginning of it, until the next one comes.
        if isinstance(event, events.SaveFailed | events.SaveUnknown | events.CheckpointRejected):
            self.say(_trouble(self._view))
        # Not before: of a session that cannot be entered there is nothing to draw.
        if isinstance(event, events.SessionBegan):
            self._live.start()
            self._drawing = spawn(self._draw(), name="demo-display")

    def measured(self, step: int, accuracy: float, saved: Saved | None) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        try:
            if self._drawing is not None:
                await self._drawing
        finally:
            # The cursor has to come back whatever happened.
            self._live.stop()
            self._worker.close()

    async def _draw(self) -> None:
        while not self._over.is_set():
            await self._worker.call(self._live.refresh)
            try:
                async with asyncio.timeout(FRAME_SECONDS):
                    await self._over.wait()
            except TimeoutError:
                continue
        await self._worker.call(self._live.refresh)
