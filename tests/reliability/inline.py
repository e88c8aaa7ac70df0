"""A loop whose threads are calls: the same code runs, a thousand times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["InlineLoop", "run_inline"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InlineLoop(asyncio.SelectorEventLoop):
    """A loop whose threads are calls: the same code runs, a hundred thousand times a minute."""

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run_inline(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=InlineLoop) as runner:
        return runner.run(coroutine)
