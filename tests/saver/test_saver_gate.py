"""``mutating()``: changes and copies keep each other out, in the order they came."""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import ProtocolError
from async_ckpt.saver import Saver
from async_ckpt.saver.gate import Gate, Mutation
from async_ckpt.state.copying import Copier
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker

from .conftest import Faults, assert_same

pytestmark = pytest.mark.asyncio


class Slow:
    """A leaf whose copy stands still until a test lets it go on."""

    def __init__(self) -> None:
        self.came, self.go = threading.Event(), threading.Event()


@pytest.fixture
def workers() -> Any:
    pair = Worker("test", threads=2)
    yield pair
    pair.close()


@pytest.fixture
def held_copy(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Holds every copy of an array of exactly 77 elements."""
    slow, copy = Slow(), Copier.copy

    def patched(copier: Copier, *args: Any) -> None:
        if any(spec.shape == (77,) for spec in copier._specs):
            slow.came.set()
            assert slow.go.wait(30)
        copy(copier, *args)

    monkeypatch.setattr(Copier, "copy", patched)
    return slow


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_change_waits_for_the_copy_that_is_running(
    memory: MemoryStore, held_copy: Slow, workers: Worker
) -> None:
    live: dict[str, Any] = {"w": np.ones(77), "step": 1}
    async with Saver(memory, staging="overlap") as saver:
        assert saver.staging == "overlap"
        pending = saver.start_save(live, 1)
        entered: list[str] = []

        async def on_loop() -> None:
            async with saver.mutating():
                entered.append("loop")
                live["w"][:] = 2.0

        def in_thread() -> None:
            with saver.mutating():
                entered.append("thread")
                live["w"][:] = 3.0

        changes: list[Any] = [asyncio.ensure_future(on_loop()), workers.submit(in_thread)]
        await workers.call(held_copy.came.wait)
        await settle()
        assert entered == []
        copies = asyncio.ensure_future(saver._copies_done())
        await settle()
        assert not copies.done()
        held_copy.go.set()
        await pending.staged()
        await asyncio.gather(*changes, copies)
        assert sorted(entered) == ["loop", "thread"]
        await pending
        assert_same({"w": np.ones(77), "step": 1}, (await saver.restore()).state)


async def test_no_copy_starts_inside_a_change_and_it_takes_the_changed_state(memory: MemoryStore) -> None:
    live: dict[str, Any] = {"w": np.zeros(5), "step": 0}
    async with Saver(memory) as saver:
        async with saver.mutating():
            live["w"][:2] = 1.0
            pending = Context().run(saver.start_save, live, 1)
            staged = asyncio.ensure_future(pending.staged())
            await settle()
            assert not staged.done()
            live["w"][2:] = 1.0
            live["step"] = 1
        await staged
        live["step"] = 2
        await pending
        # Neither half of the change nor a plain value from before it.
        assert_same({"w": np.ones(5), "step": 1}, (await saver.restore()).state)


async def test_a_change_that_comes_after_a_save_is_in_the_next_one(
    memory: MemoryStore, faults: Faults, workers: Worker
) -> None:
    """Also when the copy has to wait for memory: a label never lies about what it holds."""
    came, go = faults.hold("commit")
    live = {"w": np.full(5, 1.0)}
    async with Saver(memory) as saver:
        first = saver.start_save(live, 1)
        await first.staged()
        second = saver.start_save(live, 2)

        async def change() -> None:
            async with saver.mutating():
                live["w"][:] = 9.0

        changing = asyncio.ensure_future(change())
        await workers.call(came.wait)
        await settle()
        assert not changing.done()
        go.set()
        await changing
        await second
        assert_same({"w": np.full(5, 1.0)}, (await saver.restore(2)).state)


async def test_saves_inside_a_change_are_refused(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        async with saver.mutating():
            with pytest.raises(ProtocolError, match="mutating"):
                saver.start_save({}, 1)
            with pytest.raises(ProtocolError, match="mutating"):
                await saver.save({}, 1)
            async with saver.mutating():
                with pytest.raises(ProtocolError, match="mutating"):
                    saver.start_save({}, 1)
            with pytest.raises(ProtocolError, match="mutating"):
                saver.start_save({}, 1)
        await saver.save({}, 1)


async def test_a_task_left_behind_by_a_block_is_free(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        go = asyncio.Event()

        async def later() -> int:
            await go.wait()
            return (await saver.save({}, 1)).step

        async with saver.mutating():
            task = asyncio.create_task(later())
        go.set()
        assert await task == 1


async def test_blocks_may_be_nested_and_shared(memory: MemoryStore, workers: Worker) -> None:
    async with Saver(memory) as saver:
        meet = threading.Barrier(2)

        def change() -> None:
            with saver.mutating(), saver.mutating():
                meet.wait(30)

        async with saver.mutating():
            # Two threads inside at once, beside the loop.
            for outcome in await asyncio.gather(workers.submit(change), workers.submit(change)):
                outcome.unwrap()
        await saver.save({}, 1)


async def test_nesting_does_not_wait_for_a_copy_that_came_in_between(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        async with saver.mutating():
            pending = Context().run(saver.start_save, {}, 1)
            await settle()
            async with saver.mutating():
                assert not pending.done()
            assert not pending.done()
        await pending


async def test_a_plain_with_on_the_loop_is_refused(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(ProtocolError, match="async with"):
            saver.mutating().__enter__()
        await saver.save({}, 1)


@pytest.mark.parametrize("kind", ["copy", "change"])
async def test_a_cancelled_waiter_gives_its_place_up(kind: Any) -> None:
    gate = Gate()
    first = gate.take("change" if kind == "copy" else "copy")
    second = gate.take(kind)
    third = gate.take(first.kind)
    waiting = [asyncio.ensure_future(gate.entered(place)) for place in (second, third)]
    await settle()
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    await waiting[1]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    gate.leave(first)
    gate.leave(first)
    gate.leave(third)
    assert not gate.changing()
    assert gate.take("copy").granted


async def test_who_came_first_goes_first() -> None:
    gate = Gate()
    kinds: list[Any] = ["change", "change", "copy", "copy", "change", "copy"]
    places = [gate.take(kind) for kind in kinds]
    order: list[tuple[int, ...]] = []
    while left := [place for place in places if place in gate._places]:
        granted = [place for place in left if place.granted]
        order.append(tuple(places.index(place) for place in granted))
        for place in granted:
            gate.leave(place)
    assert order == [(0, 1), (2, 3), (4,), (5,)]


async def test_a_loop_that_is_gone_does_not_stop_the_others() -> None:
    gate = Gate()
    copy, change = gate.take("copy"), gate.take("change")
    waiting = gate.entered(change)

    async def begin_to_wait() -> None:
        waiting.send(None)

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin_to_wait())
        loop.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    gate.leave(copy)
    assert change.granted
    waiting.close()
    assert gate.take("copy").granted


async def test_a_thread_that_is_interrupted_gives_its_place_up(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    gate.take("copy")

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr("async_ckpt.saver.gate.threading.Event", Interrupted)
    place = gate.take("change")
    with pytest.raises(KeyboardInterrupt):
        gate.wait(place)
    assert not gate.changing()


async def test_outside_any_block_nobody_is_inside() -> None:
    gate, other = Gate(), Gate()
    async with Mutation(gate):
        assert Mutation.inside(gate)
        assert not Mutation.inside(other)
        assert not Context().run(Mutation.inside, gate)
    assert not Mutation.inside(gate)
