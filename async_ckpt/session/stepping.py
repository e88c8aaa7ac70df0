"""Calling a step function: where it runs, what counts, and what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from async_ckpt.runtime.lane import is_coroutine_function
from async_ckpt.session.boundary import inside_user_code
from async_ckpt.session.host import SessionHost
from async_ckpt.system.threads import Outcome, finish

__all__ = ["Stepping"]


class Stepping:
    """The steps of one session, as far as calling the user's function goes.

    Attributes:
        unfinished: A step failed, was cancelled in the middle, or goes on in the user's own loop: the state
            belongs to no boundary.
        interrupted: A coroutine step was cancelled in the middle. Unlike an error that the caller has caught
            and judged, that leaves a state nobody can vouch for: nothing of it is saved.
    """

    def __init__(self, host: SessionHost) -> None:
        self.unfinished = False
        self.interrupted = False
        self._host = host

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], steps: int) -> Any:
        """Call ``fn`` once, count ``steps`` if it returned, and hand back its result.

        Cancellation: a plain function is waited for and counted; a coroutine function is not counted.
        """
        host = self._host
        self.unfinished = True
        with inside_user_code("the step function", fn, host.facade):
            if is_coroutine_function(fn):
                host.last_step_in_trainer = False
                result = await self._awaited(fn(*args))
            else:
                result = await self._call_plain(fn, args, steps)
        host.global_step += steps
        return result

    async def _call_plain(self, fn: Callable[..., Any], args: tuple[Any, ...], steps: int) -> Any:
        host = self._host
        host.last_step_in_trainer = True
        future = host.trainer.submit(fn, *args)
        try:
            outcome: Outcome[Any] = await finish(future)
        except asyncio.CancelledError as cancellation:
            self._count_or_note(future.result(), steps, cancellation)
            raise
        result = outcome.unwrap()
        if inspect.isawaitable(result):
            host.last_step_in_trainer = False
            result = await self._awaited(result)
        return result

    async def _awaited(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except asyncio.CancelledError:
            self.interrupted = True
            raise

    def done(self) -> None:
        """The step was counted: the state is at a boundary."""
        self.unfinished = self.interrupted = False

    def _count_or_note(self, outcome: Outcome[Any], steps: int, cancellation: BaseException) -> None:
        if outcome.error is not None:
            cancellation.add_note(f"the step function raised {outcome.error!r} while the step was cancelled")
            self._host.errors.append(outcome.error)
        elif inspect.iscoroutine(outcome.value):
            outcome.value.close()
        elif not inspect.isawaitable(outcome.value):
            self._host.global_step += steps
            self.unfinished = False
