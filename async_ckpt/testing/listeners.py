"""A listener that writes down what happens to it, and does what a test needs it to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

__all__ = ["Gate", "RecordingListener"]


class Gate:
    """A place where a coroutine waits until the test lets it pass; closed at first.

    ``await gate.reached()`` returns once somebody stands at the gate, so a test never has to guess
    how long that takes. One opening lets everyone through, now and later, until :meth:`close`.
    """

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    async def __call__(self) -> None:
        """Wait until the gate is open. Cancellation: the wait ends, the gate stays as it is."""
        self._reached.set()
        await self._open.wait()

    async def reached(self) -> None:
        """Wait until somebody has come to the gate since it was made or last closed."""
        await self._reached.wait()

    def open(self) -> None:
        """Let everyone pass."""
        self._open.set()

    def close(self) -> None:
        """Hold back whoever comes from now on, and forget who came before."""
        self._open.clear()
        self._reached.clear()


class RecordingListener:
    """A listener that appends ``(name, phase, step)`` to a log at the start of each callback.

    ``phase`` is ``"begin"``, ``"before_save"``, ``"after_save"`` or ``"end"``; ``step`` is None in
    ``begin``. Several listeners may share one log, which then shows the order over all of them.

    Args:
        name: The first item of each entry; also the key of the listener's state in a checkpoint.
        log: The list to append to; None starts a new one, found in :attr:`log`.
        vote_at: Steps at which ``after_save`` returns ``vote``; at others it returns None.
        vote: What a vote is; any truthy object stops, a falsy one does not.
        raise_in: Phase to what it raises: an exception (each time), or a mapping from the number of
            the call in that phase, counted from 1, to an exception.
        gates: Phase to something to await inside the callback before it ends, such as a :class:`Gate`.
        log_exits: Append ``(name, "/" + phase, step)`` too when a callback ends, however it ends.

    Attributes:
        log: The list given, or the new one.
        calls: Phase to how often it was called.
    """

    def __init__(
        self,
        name: str,
        log: list[tuple[str, str, int | None]] | None = None,
        *,
        vote_at: Collection[int] = (),
        vote: object = True,
        raise_in: Mapping[str, BaseException | Mapping[int, BaseException]] | None = None,
        gates: Mapping[str, Callable[[], Awaitable[object]]] | None = None,
        log_exits: bool = False,
    ) -> None:
        phases = {"begin", "before_save", "after_save", "end"}
        if unknown := {*(raise_in or ()), *(gates or ())} - phases:
            message = f"no such phase: {sorted(unknown)}; there are {sorted(phases)}"
            raise ValueError(message)
        self.name = name
        self.log = [] if log is None else log
        self.calls = dict.fromkeys(sorted(phases), 0)
        self._vote_at = frozenset(vote_at)
        self._vote = vote
        self._raise_in = dict(raise_in or {})
        self._gates = dict(gates or {})
        self._log_exits = log_exits

    def __repr__(self) -> str:
        return f"<RecordingListener {self.name}>"

    async def begin(self) -> None:
        """Record, wait at the gate, raise if told to."""
        await self._called("begin", None)

    async def before_save(self, session: Any, global_step_value: int) -> None:
        """Record, wait at the gate, raise if told to."""
        del session
        await self._called("before_save", global_step_value)

    async def after_save(self, session: Any, global_step_value: int) -> object:
        """Record, wait at the gate, raise if told to, vote if it is the step for it."""
        del session
        await self._called("after_save", global_step_value)
        return self._vote if global_step_value in self._vote_at else None

    async def end(self, session: Any, global_step_value: int) -> None:
        """Record, wait at the gate, raise if told to."""
        del session
        await self._called("end", global_step_value)

    async def _called(self, phase: str, step: int | None) -> None:
        self.calls[phase] += 1
        self.log.append((self.name, phase, step))
        try:
            if phase in self._gates:
                await self._gates[phase]()
            error = self._raise_in.get(phase)
            if isinstance(error, Mapping):
                error = error.get(self.calls[phase])
            if error is not None:
                raise error
        finally:
            if self._log_exits:
                self.log.append((self.name, "/" + phase, step))
