"""The async shell of the machine: an inbox in front of it, its commands carried out in order.

Inputs wait in the inbox while commands are being handed out, so an input that arrives in the middle
(an eager task that finished at once) cannot overtake what was decided before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from async_ckpt.core import protocol as p
from async_ckpt.core.machine import Machine, SaveState
from async_ckpt.runtime.runner import Attempt, SaveRunner
from async_ckpt.system.threads import TRIES, insist, spawn, spend

__all__ = ["Scheduler"]


class Scheduler:
    """Feeds one machine and carries out its commands with one runner per saver hook.

    ``on_input()`` is told before the machine is: what was known of coming boundaries may no longer hold.
    ``on_stop(reason)`` and ``on_skip(hook, step, reason)`` are told what was decided; ``on_bug``
    gets an exception that a runner should have reported by its return value.

    Attributes:
        broken: Memory lacked in the midst of an input, so nobody knows where the saves are: nobody waits for
            one any more, none is begun, and the session can only be left.
    """

    def __init__(
        self,
        runners: Sequence[SaveRunner],
        *,
        now: Callable[[], float],
        on_input: Callable[[], None],
        on_stop: Callable[[str], None],
        on_skip: Callable[[int, int, str], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self.machine = Machine()
        self._runners = runners
        self._now = now
        self._on_input = on_input
        self._on_stop = on_stop
        self._on_skip = on_skip
        self._on_bug = on_bug
        self._inbox: deque[p.Input] = deque()
        self._carrying = False
        self._places: dict[int, asyncio.Future[bool]] = {}
        self._round_over: asyncio.Future[None] | None = None
        self._over: dict[Attempt, asyncio.Future[None]] = {}
        self._askers = [0] * len(runners)
        self._given_up = False
        self.broken = False

    # -- inputs ------------------------------------------------------------------------------

    def tell(self, event: p.Input) -> None:
        """Put ``event`` into the inbox and, unless somebody already does, work the inbox off.

        Raises:
            ProtocolError: The machine refused ``event``; nothing has changed.
        """
        self._on_input()
        if self.broken:
            return
        self._inbox.append(event)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._inbox:
                for command in self.machine.receive(self._inbox.popleft()):
                    self._carry_out(command)
        except MemoryError:
            self.break_off()
            raise
        finally:
            self._carrying = False

    async def offer(
        self, hook: int, *, wanted: bool = False, asked: bool = False, askers: int = 0
    ) -> Attempt | None:
        """Give a saver hook its place in the boundary; return its save, if it began one.

        Returns when the boundary may go on: nothing is due, or the state is staged, or, for a
        blocking hook, the whole sequence is through.

        Cancellation: while waiting for a slot there is no save and no callback; in ``before_save`` the
        running callback finishes and nothing is saved; from the staging on the save completes.
        """
        if self.broken:
            return None
        place = asyncio.get_running_loop().create_future()
        self._places[hook] = place
        self._askers[hook] = askers
        before = self._runners[hook].attempt
        cancelled: asyncio.CancelledError | None = None
        self.tell(p.SaveOffered(hook, self._now(), wanted=wanted, asked=asked))
        tries = TRIES
        while not place.done():
            try:
                await asyncio.wait([place])
            except asyncio.CancelledError as error:
                cancelled = error
                if self._leave_place(hook):
                    break
            except MemoryError:
                # To leave would be to close the boundary over a save that is being prepared.
                tries = spend(tries)
        self._places.pop(hook, None)
        if cancelled is not None:
            raise cancelled
        attempt = self._runners[hook].attempt
        return None if attempt is before else attempt

    def _leave_place(self, hook: int) -> bool:
        state = self.machine.state_of(hook)
        if self.machine.held == hook:
            self.tell(p.OfferWithdrawn(hook))
            return True
        if state is SaveState.PREPARING:
            attempt = self._runners[hook].attempt
            if attempt is not None:
                attempt.cancelled = True
            return False
        return True

    async def owed_report(self, hook: int, step: int) -> None:
        """Have ``after_save`` of a checkpoint of an earlier life called, and wait for the end of it."""
        place = asyncio.get_running_loop().create_future()
        self._places[hook] = place
        self.tell(p.ReportOwed(hook, step))
        await place

    # -- waiting -----------------------------------------------------------------------------

    async def drained(self) -> None:
        """Wait until no save is in flight, or until :meth:`give_up`."""
        tries = TRIES
        while not (self.machine.idle or self._given_up):
            try:
                if self._round_over is None:
                    self._round_over = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._round_over)
            except MemoryError:
                tries = spend(tries)

    async def finished(self, attempt: Attempt) -> None:
        """Wait until ``attempt`` is over, ``after_save`` included."""
        over = self._over.get(attempt)
        if over is not None:
            await asyncio.shield(over)

    def give_up(self) -> None:
        """The grace period is over, or nobody knows any more: let everybody who waits for a save go."""
        self._given_up = True
        self._wake_waiters()
        for over in self._over.values():
            if not over.done():
                over.set_result(None)
        for hook, place in self._places.items():
            # A blocking save goes on behind the boundary; one that is still prepared ends by itself.
            if not place.done() and (
                self.broken or self.machine.state_of(hook) not in (None, SaveState.PREPARING)
            ):
                place.set_result(True)

    def break_off(self) -> None:
        """Memory lacked for what the machine has to be told: the session can only be left."""
        self.broken = True
        insist(self.give_up)

    def _wake_waiters(self) -> None:
        waiter, self._round_over = self._round_over, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- commands ----------------------------------------------------------------------------

    def _carry_out(self, command: p.Command) -> None:
        match command:
            case p.Proceed(hook, taken):
                place = self._places.get(hook)
                if place is not None and not place.done():
                    place.set_result(taken)
            case p.Prepare(hook, step):
                attempt = self._runners[hook].start(step, askers=self._askers[hook])
                self._over[attempt] = asyncio.get_running_loop().create_future()
                self._go(self._prepare_and_write(hook, step, attempt), f"save step {step}")
            case p.Commit(hook, step):
                self._go(self._commit(hook, step), f"commit step {step}")
            case p.Report(hook, step):
                self._go(self._report(hook, step), f"after_save step {step}")
            case p.Settle(hook, step):
                self._go(self._settle(hook, step), f"settle step {step}")
            case p.DecideStop(reason):
                self._on_stop(reason)
            case p.Skip(hook, step, reason):
                self._on_skip(hook, step, reason)
            case p.EndRound():
                self._wake_waiters()

    def watch(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Let ``work`` run beside the session; whatever it raises is told as a bug."""
        self._go(self._try(work, otherwise=None), what)

    def _go(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        try:
            spawn(self._carried(work), name=f"async_ckpt {what}")
        except BaseException:
            work.close()
            raise

    async def _carried(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except MemoryError as error:
            self.break_off()
            self._on_bug(error)

    async def _prepare_and_write(self, hook: int, step: int, attempt: Attempt) -> None:
        if not await self._try(self._runners[hook].prepare(step), otherwise=False):
            self._runners[hook].let_go()
            self._close_book(attempt)
            self.tell(p.PrepareFailed(hook))
            return
        self.tell(p.Prepared(hook))
        if await self._try(self._runners[hook].write(step), otherwise=False):
            self.tell(p.Written(hook))
        else:
            self._fail(hook, p.WriteFailed(hook))

    async def _commit(self, hook: int, step: int) -> None:
        if await self._try(self._runners[hook].commit(step), otherwise=False):
            self.tell(p.Committed(hook))
        else:
            self._fail(hook, p.CommitFailed(hook))

    async def _report(self, hook: int, step: int) -> None:
        votes = await self._try(self._runners[hook].report(step), otherwise=())
        self.tell(p.Reported(hook, votes))

    async def _settle(self, hook: int, step: int) -> None:
        runner = self._runners[hook]
        await self._try(runner.settle(step), otherwise=None)
        if runner.attempt is not None:
            self._close_book(runner.attempt)
        self.tell(p.Settled(hook))

    def _fail(self, hook: int, event: p.Input) -> None:
        self._runners[hook].let_go()
        attempt = self._runners[hook].attempt
        if attempt is not None:
            self._close_book(attempt)
        self.tell(event)
        if self.machine.idle:
            self._wake_waiters()

    def _close_book(self, attempt: Attempt) -> None:
        over = self._over.pop(attempt, None)
        if over is not None and not over.done():
            over.set_result(None)

    async def _try(self, work: Coroutine[Any, Any, Any], *, otherwise: Any) -> Any:
        """A runner reports by its return value; whatever it raises is our own fault, and still told."""
        try:
            return await work
        except BaseException as error:  # noqa: BLE001 - the machine must hear of everything
            self._on_bug(error)
            return otherwise
