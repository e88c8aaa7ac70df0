"""``session.mutating()``: the gates of all savers of a session, as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import TracebackType

from async_ckpt.saver import Saver

__all__ = ["Mutation", "inside_mutation", "open_mutation"]

#: the innermost block that the running code is inside of, or was: see :func:`inside_mutation`
open_mutation: ContextVar[Mutation | None] = ContextVar("async_ckpt_session_mutating", default=None)


def inside_mutation() -> bool:
    """Whether the calling code is inside a ``mutating()`` block that is still open."""
    mutation = open_mutation.get()
    return mutation is not None and mutation.depth > 0


class Mutation:
    """``async with`` on the loop, plain ``with`` in a thread; enters every saver's gate in hook order.

    Cancellation while waiting leaves every gate as it was.
    """

    def __init__(self, savers: Sequence[Saver], entered: Callable[[], None]) -> None:
        self._savers = savers
        self._entered = entered
        self._async_gates: contextlib.AsyncExitStack | None = None
        self._gates: contextlib.ExitStack | None = None
        self._outer: Mutation | None = None
        self.depth = 0

    async def __aenter__(self) -> None:
        async with contextlib.AsyncExitStack() as gates:
            for saver in self._savers:
                await gates.enter_async_context(saver.mutating())
            self._async_gates = gates.pop_all()
        self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if self._async_gates is not None:
            await self._async_gates.aclose()

    def __enter__(self) -> None:
        with contextlib.ExitStack() as gates:
            for saver in self._savers:
                gates.enter_context(saver.mutating())
            self._gates = gates.pop_all()
        self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if self._gates is not None:
            self._gates.close()

    def _enter(self) -> None:
        self._entered()
        self.depth += 1
        self._outer = open_mutation.get()
        open_mutation.set(self)

    def _leave(self) -> None:
        self.depth -= 1
        open_mutation.set(self._outer)
