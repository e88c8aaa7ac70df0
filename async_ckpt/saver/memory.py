"""Staging memory, shared by the savers of an engine and kept within its budget.

Who asks first is served first, so each saver gets its turn: a saver asks for one save at a time. Nobody
waits for memory whose owner waits for them: a save whose bytes are all on disk gives its memory up as soon
as somebody else wants it, and is read back from there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from async_ckpt.state.arena import HUGE, Arena

__all__ = ["Loan", "Memory"]


class Loan:
    """Memory in the hands of one owner, until it is given back."""

    def __init__(self, arena: Arena, owner: object) -> None:
        self.arena = arena
        self.owner = owner
        self.give_up: Callable[[], None] | None = None


class _Waiter(NamedTuple):
    owner: object
    nbytes: int
    turn: asyncio.Future[Loan]


class Memory:
    """Arenas for several owners. All methods belong on one event loop.

    Args:
        budget: Bytes that all arenas together may hold; None for as many as are asked for.
        release: Closes an arena, which takes a while.
    """

    def __init__(self, budget: int | None, release: Callable[[Arena], object]) -> None:
        self.budget = budget
        self._release = release
        self._idle: list[tuple[Arena, object]] = []
        # A list that gets shorter may ask for memory, and what is given back would stay lent.
        self._loans: dict[Loan, None] = {}
        self._waiters: deque[_Waiter] = deque()
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes of all arenas, lent or idle."""
        return sum(arena.nbytes for arena, _ in self._idle) + sum(loan.arena.nbytes for loan in self._loans)

    def fits(self, nbytes: int) -> bool:
        """Whether so much can ever be lent."""
        return self.budget is None or _whole(nbytes, self.budget) <= self.budget

    async def lend(self, nbytes: int, owner: object) -> Loan:
        """Wait for a turn, and for ``nbytes`` of memory.

        Args:
            nbytes: At most the budget.
            owner: Gets the memory it had before, if that is free.

        Raises:
            OSError: The operating system has no such memory.
            ValueError: It is more than the budget.

        Cancellation: nothing is lent.
        """
        if not self.fits(nbytes):
            msg = f"{nbytes} bytes are more than the budget of {self.budget}"
            raise ValueError(msg)
        loan = None if self._waiters else self._try(nbytes, owner)
        if loan is not None:
            return loan
        turn: asyncio.Future[Loan] = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(owner, nbytes, turn))
        self._ask_owners()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result())
            else:
                self._waiters = deque(waiter for waiter in self._waiters if waiter.turn is not turn)
                self._serve()
            raise

    def try_lend(self, nbytes: int, owner: object) -> Loan | None:
        """Lend at once, or not at all; for what can do without."""
        return None if self._waiters or not self.fits(nbytes) else self._try(nbytes, owner)

    def may_give_up(self, loan: Loan, give_up: Callable[[], None]) -> None:
        """Say that a loan can be done without: ``give_up`` is called when somebody waits for memory.

        It has to call :meth:`give_back`, at once or later.
        """
        loan.give_up = give_up
        if self._waiters:
            self._ask_owners()

    def give_back(self, loan: Loan) -> None:
        """End a loan. A second time does nothing."""
        if loan not in self._loans:
            return
        del self._loans[loan]
        if self._closed:
            loan.arena.close()
            return
        self._idle.append((loan.arena, loan.owner))
        self._serve()

    def forget(self, owner: object) -> None:
        """Let go what an owner had that does not come back, unless others may use it."""
        if self.budget is None:
            self._drop(lambda _, whose: whose is owner)

    def close(self) -> None:
        """Let everything go, what is lent as soon as it is given back."""
        self._closed = True
        self._drop(lambda _arena, _whose: True)

    def _ask_owners(self) -> None:
        for loan in list(self._loans):
            give_up, loan.give_up = loan.give_up, None
            if give_up is not None:
                give_up()

    def _serve(self) -> None:
        while self._waiters:
            first = self._waiters[0]
            if not first.turn.done():
                try:
                    loan = self._try(first.nbytes, first.owner)
                except OSError as error:
                    first.turn.set_exception(error)
                else:
                    if loan is None:
                        return
                    first.turn.set_result(loan)
            self._waiters.popleft()

    def _try(self, nbytes: int, owner: object) -> Loan | None:
        arena = self._take_idle(nbytes, owner)
        if arena is None:
            # What an owner had and has outgrown is of no use to it any more.
            self._drop(lambda _, whose: whose is owner)
            if not self._make_room(nbytes):
                return None
            arena = Arena()
            arena.reserve(nbytes if self.budget is None else _whole(nbytes, self.budget))
        loan = Loan(arena, owner)
        self._loans[loan] = None
        return loan

    def _take_idle(self, nbytes: int, owner: object) -> Arena | None:
        """Find an arena that is free: the owner's own, or with a budget the smallest that suffices."""
        found = [
            (whose is not owner, arena.nbytes, place)
            for place, (arena, whose) in enumerate(self._idle)
            if arena.nbytes >= nbytes and not arena.lent() and (whose is owner or self.budget is not None)
        ]
        return self._idle.pop(min(found)[2])[0] if found else None

    def _make_room(self, nbytes: int) -> bool:
        if self.budget is None:
            return True
        need = _whole(nbytes, self.budget)
        if need > self.budget - sum(loan.arena.nbytes for loan in self._loans):
            return False
        while self._idle and self.held + need > self.budget:
            self._release(self._idle.pop(0)[0])
        return True

    def _drop(self, which: Callable[[Arena, object], bool]) -> None:
        kept = []
        for arena, whose in self._idle:
            if which(arena, whose):
                self._release(arena)
            else:
                kept.append((arena, whose))
        self._idle = kept


def _whole(nbytes: int, budget: int) -> int:
    """Round up, so that states of about one size can use each other's memory."""
    return min(budget, max(nbytes, HUGE, -(-nbytes // HUGE) * HUGE)) if nbytes <= budget else nbytes
