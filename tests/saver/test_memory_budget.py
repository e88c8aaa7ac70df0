"""Staging memory of several owners: within the budget, in turns, and nobody waits in a ring."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_ckpt.saver.memory import Loan, Memory
from async_ckpt.state.arena import HUGE, Arena

pytestmark = pytest.mark.asyncio


@pytest.fixture
def released() -> list[Arena]:
    return []


@pytest.fixture
def memory(released: list[Arena]) -> Memory:
    return Memory(4 * HUGE, released.append)


@pytest.fixture
def free(released: list[Arena]) -> Memory:
    return Memory(None, released.append)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_owner_gets_the_memory_it_had_before(free: Memory) -> None:
    one = await free.lend(1000, "a")
    other = await free.lend(1000, "b")
    arenas = one.arena, other.arena
    free.give_back(other)
    free.give_back(one)
    assert (await free.lend(900, "a")).arena is arenas[0]
    assert (await free.lend(900, "b")).arena is arenas[1]


async def test_without_a_budget_nobody_gets_what_is_somebody_elses(free: Memory) -> None:
    one = await free.lend(1000, "a")
    free.give_back(one)
    assert (await free.lend(1000, "b")).arena is not one.arena


async def test_memory_that_was_outgrown_is_let_go(free: Memory, released: list[Arena]) -> None:
    small = await free.lend(1000, "a")
    free.give_back(small)
    large = await free.lend(10_000, "a")
    assert released == [small.arena]
    assert free.held == large.arena.nbytes


async def test_memory_that_somebody_still_looks_at_is_not_lent_again(
    free: Memory, released: list[Arena]
) -> None:
    loan = await free.lend(1000, "a")
    view = loan.arena.lend()[:10]
    free.give_back(loan)
    assert (await free.lend(1000, "a")).arena is not loan.arena
    assert released == [loan.arena]
    assert len(view) == 10


async def test_with_a_budget_memory_goes_from_hand_to_hand(memory: Memory) -> None:
    one = await memory.lend(HUGE, "a")
    memory.give_back(one)
    assert (await memory.lend(HUGE - 5, "b")).arena is one.arena


async def test_who_comes_first_is_served_first_and_the_budget_holds(memory: Memory) -> None:
    first = await memory.lend(3 * HUGE, "a")
    order: list[str] = []
    loans: dict[str, Loan] = {}

    async def ask(name: str, nbytes: int) -> None:
        loans[name] = await memory.lend(nbytes, name)
        order.append(name)
        assert memory.held <= 4 * HUGE

    tasks = [asyncio.ensure_future(ask("large", 4 * HUGE))]
    await settle()
    # It would fit, but somebody was there before.
    tasks.append(asyncio.ensure_future(ask("small", HUGE)))
    await settle()
    assert order == []
    memory.give_back(first)
    await settle()
    assert order == ["large"]
    memory.give_back(loans["large"])
    await asyncio.gather(*tasks)
    assert order == ["large", "small"]


async def test_idle_memory_makes_room_for_what_is_asked_for(memory: Memory, released: list[Arena]) -> None:
    loans = [await memory.lend(HUGE, name) for name in "abcd"]
    for loan in loans:
        memory.give_back(loan)
    await memory.lend(2 * HUGE, "e")
    assert released == [loan.arena for loan in loans[:2]]
    assert memory.held == 4 * HUGE


async def test_more_than_the_budget_is_refused(memory: Memory) -> None:
    assert memory.fits(4 * HUGE)
    assert not memory.fits(4 * HUGE + 1)
    with pytest.raises(ValueError, match="more than the budget"):
        await memory.lend(4 * HUGE + 1, "a")
    assert memory.try_lend(4 * HUGE + 1, "a") is None


async def test_a_cancelled_waiter_leaves_the_line(memory: Memory) -> None:
    first = await memory.lend(4 * HUGE, "a")
    gone = asyncio.ensure_future(memory.lend(4 * HUGE, "b"))
    stays = asyncio.ensure_future(memory.lend(HUGE, "c"))
    await settle()
    gone.cancel()
    await settle()
    memory.give_back(first)
    assert (await stays).owner == "c"
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_loan_that_comes_together_with_the_cancellation_is_given_back(memory: Memory) -> None:
    first = await memory.lend(4 * HUGE, "a")
    waiter = asyncio.ensure_future(memory.lend(4 * HUGE, "b"))
    await settle()
    memory.give_back(first)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (await memory.lend(4 * HUGE, "c")).owner == "c"


async def test_the_first_in_line_leaving_lets_the_next_one_in(memory: Memory) -> None:
    first = await memory.lend(3 * HUGE, "a")
    gone = asyncio.ensure_future(memory.lend(4 * HUGE, "b"))
    await settle()
    stays = asyncio.ensure_future(memory.lend(HUGE, "c"))
    await settle()
    gone.cancel()
    assert (await stays).owner == "c"
    memory.give_back(first)


async def test_what_can_be_done_without_is_asked_for_once(memory: Memory) -> None:
    loan = await memory.lend(4 * HUGE, "a")
    asked: list[str] = []

    def give_up() -> None:
        asked.append("a")
        memory.give_back(loan)

    memory.may_give_up(loan, give_up)
    assert asked == []
    assert (await memory.lend(HUGE, "b")).owner == "b"
    assert asked == ["a"]


async def test_who_already_waits_is_served_when_something_can_be_done_without(memory: Memory) -> None:
    loan = await memory.lend(4 * HUGE, "a")
    waiter = asyncio.ensure_future(memory.lend(HUGE, "b"))
    await settle()
    memory.may_give_up(loan, lambda: memory.give_back(loan))
    assert (await waiter).owner == "b"


async def test_a_system_without_memory_says_so_to_whom_it_concerns(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await memory.lend(4 * HUGE, "a")
    waiter = asyncio.ensure_future(memory.lend(HUGE + 5, "b"))
    await settle()

    def fails(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    first.arena.close()
    with monkeypatch.context() as patched:
        patched.setattr(Arena, "reserve", fails)
        memory.give_back(first)
        with pytest.raises(OSError, match="Cannot allocate"):
            await waiter
    assert (await memory.lend(HUGE, "c")).owner == "c"


async def test_what_is_given_back_after_the_end_is_let_go(memory: Memory) -> None:
    loan = await memory.lend(HUGE, "a")
    idle = await memory.lend(HUGE, "b")
    memory.give_back(idle)
    memory.close()
    memory.give_back(loan)
    memory.give_back(loan)
    assert memory.held == 0
    assert loan.arena.nbytes == 0
