"""An engine: one budget of memory and bandwidth for all savers that share it; and memory made ready ahead."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from async_ckpt import Engine, ProtocolError, SaveError, Saver, UnsupportedLeafError
from async_ckpt.saver import engine as engine_module
from async_ckpt.saver import warming
from async_ckpt.state import arena
from async_ckpt.state.copying import Copier
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker

from .conftest import Faults, assert_same

pytestmark = pytest.mark.asyncio

MIB = 2**20


def state(value: float, mib: int = 2) -> dict[str, Any]:
    return {"x": {"w": np.full(mib * MIB // 8, value)}}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"staging_bytes": MIB - 1}, ValueError),
        ({"staging_bytes": 1e9}, TypeError),
        ({"staging_bytes": True}, TypeError),
        ({"io_bytes_per_sec": 0}, ValueError),
        ({"io_bytes_per_sec": float("nan")}, ValueError),
        ({"io_bytes_per_sec": float("inf")}, ValueError),
        ({"io_bytes_per_sec": "fast"}, TypeError),
        ({"copy_threads": 0}, ValueError),
    ],
)
async def test_numbers_out_of_range_are_refused(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=next(iter(options))):
        Engine(**options)


async def test_limits_belong_to_the_engine_that_is_given(tmp_path: Path) -> None:
    async with Engine() as engine:
        for options in ({"staging_bytes": 8 * MIB}, {"io_bytes_per_sec": 1e9}):
            with pytest.raises(ValueError, match="belong to the engine"):
                Saver(tmp_path, engine=engine, **options)


async def test_sixteen_savers_stay_within_one_budget(tmp_path: Path) -> None:
    async with Engine(staging_bytes=9 * MIB) as engine:
        savers = [Saver(tmp_path / str(number), engine=engine) for number in range(16)]
        highest = 0
        for step in (1, 2):
            saves = [saver.start_save(state(number), step) for number, saver in enumerate(savers)]
            while not all(save.done() for save in saves):
                highest = max(highest, engine.memory_bytes)
                await asyncio.sleep(0)
            await asyncio.gather(*saves)
        assert 0 < highest <= 9 * MIB
        for number, saver in enumerate(savers):
            assert_same((await saver.restore(2)).state, state(number))
            await saver.aclose()
    assert engine.memory_bytes == 0


async def test_savers_take_turns(tmp_path: Path) -> None:
    async with Engine(staging_bytes=2 * MIB + 8192) as engine:
        one, other = Saver(tmp_path / "one", engine=engine), Saver(tmp_path / "other", engine=engine)
        order: list[str] = []

        async def note(name: str, saver: Saver, step: int) -> None:
            await saver.start_save(state(1.0), step)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for step in (1, 2, 3):
                group.create_task(note("one", one, step))
            for step in (1, 2, 3):
                group.create_task(note("other", other, step))
        assert sorted(order[:2]) == sorted(order[2:4]) == ["one", "other"]
        await one.aclose()
        await other.aclose()


async def test_a_held_save_never_keeps_another_saver_waiting(tmp_path: Path) -> None:
    """Two hooks of one session: the second stages before the first may commit."""
    async with Engine(staging_bytes=2 * MIB + 8192) as engine:
        one, other = Saver(tmp_path / "one", engine=engine), Saver(tmp_path / "other", engine=engine)
        first = one._start(one._flatten(state(1.0)), 1)
        await first.staged()
        assert first.viewable
        second = other._start(other._flatten(state(2.0)), 1)
        await second.staged()
        assert not first.viewable
        for pending in (first, second):
            pending.allow_commit()
            await pending
            pending.release()
        assert_same((await one.restore()).state, state(1.0))
        assert_same((await other.restore()).state, state(2.0))
        await one.aclose()
        await other.aclose()


async def test_a_state_beyond_the_budget_goes_through_a_window(tmp_path: Path) -> None:
    async with Engine(staging_bytes=MIB) as engine, Saver(tmp_path, engine=engine) as saver:
        await saver.save(state(3.0, 8), 1)
        assert engine.memory_bytes <= MIB
        assert_same((await saver.restore()).state, state(3.0, 8))


async def test_a_closed_engine_takes_no_save(tmp_path: Path) -> None:
    engine = Engine()
    async with Saver(tmp_path, engine=engine) as saver:
        await saver.save(state(1.0), 1)
        await engine.aclose()
        await engine.aclose()
        with pytest.raises(SaveError, match="the engine is closed"):
            await saver.save(state(2.0), 2)
        with pytest.raises(ProtocolError, match="the engine is closed"):
            await saver.prepare(state(2.0))
        assert [found.step for found in await saver.checkpoints()] == [1]
    with pytest.raises(ProtocolError, match="the engine is closed"):
        async with engine:
            pass


async def test_a_saver_that_closes_leaves_the_engine_to_the_others(tmp_path: Path) -> None:
    async with Engine() as engine:
        async with Saver(tmp_path / "one", engine=engine) as one:
            await one.save(state(1.0), 1)
        assert engine.memory_bytes == 0
        async with Saver(tmp_path / "other", engine=engine) as other:
            await other.save(state(1.0), 1)
            assert engine.memory_bytes > 0


async def test_a_limited_rate_changes_nothing_but_the_time(tmp_path: Path) -> None:
    async with Saver(tmp_path, io_bytes_per_sec=1e9) as saver:
        pending = saver.start_save(state(1.0, 8), 1)
        await pending
        assert pending.progress.bytes_done == pending.progress.bytes_total
        await saver.verify(1)


async def test_a_save_that_waits_for_its_share_can_be_cancelled(tmp_path: Path) -> None:
    async with Saver(tmp_path, io_bytes_per_sec=1.0) as saver:
        pending = saver.start_save(state(1.0, 8), 1)
        while pending.progress.phase != "writing":
            await asyncio.sleep(0)
        assert pending.cancel()
        with pytest.raises(SaveError, match="cancelled"):
            await pending
        assert await saver.checkpoints() == []


# -- memory made ready ----------------------------------------------------------------------------------


async def test_memory_is_ready_before_the_first_save(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.prepare(state(1.0))
        ready = saver._engine.memory_bytes
        assert ready >= 2 * MIB
        assert saver._engine._memory._idle[0][0].warm == ready
        await saver.save(state(1.0), 1)
        assert saver._engine.memory_bytes == ready
        await saver.prepare(state(1.0))
        assert saver._engine.memory_bytes == ready
        assert_same((await saver.restore()).state, state(1.0))


class Held:
    """Stops every touching of memory until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.go = threading.Event(), threading.Event()
        prefault = arena.prefault
        self.touched = 0

        def held(piece: memoryview) -> bool:
            self.came.set()
            assert self.go.wait(30)
            self.touched += 1
            return prefault(piece)

        monkeypatch.setattr(warming, "prefault", held)
        monkeypatch.setattr(warming, "PIECE", 2**16)


async def test_a_save_goes_before_what_is_being_made_ready(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    live = state(1.0)
    async with Saver(memory) as saver:
        preparing = asyncio.ensure_future(saver.prepare(live))
        await thread.call(held.came.wait)
        again = asyncio.ensure_future(saver.prepare(live))
        await again
        pending = saver.start_save(live, 1)
        while not saver._writer._warming._stop:
            await asyncio.sleep(0)
        held.go.set()
        await pending
        await preparing
        assert held.touched <= saver._engine._copy_threads
        assert len(saver._engine._memory._idle) == 1
        assert_same((await saver.restore()).state, live)


async def test_cancelling_the_preparation_ends_its_threads(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    live = state(1.0)
    async with Saver(memory) as saver:
        preparing = asyncio.ensure_future(saver.prepare(live))
        await thread.call(held.came.wait)
        preparing.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not preparing.done()
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        assert held.touched <= saver._engine._copy_threads
        await saver.save(live, 1)


async def test_while_a_save_is_in_flight_there_is_nothing_to_prepare(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("begin")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        await thread.call(came.wait)
        await saver.prepare(state(1.0))
        assert saver._engine._memory._idle == []
        go.set()
        await pending


async def test_a_state_that_cannot_be_saved_cannot_be_prepared_for(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(UnsupportedLeafError):
            await saver.prepare({"x": object()})
    with pytest.raises(ProtocolError, match="closed"):
        await saver.prepare(state(1.0))


async def test_nobody_is_kept_waiting_for_memory_that_may_never_be_used(tmp_path: Path) -> None:
    async with Engine(staging_bytes=2 * MIB + 8192) as engine:
        one, other = Saver(tmp_path / "one", engine=engine), Saver(tmp_path / "other", engine=engine)
        held = one._start(one._flatten(state(1.0)), 1)
        await held.staged()
        await other.prepare(state(1.0))
        held.allow_commit()
        await held
        held.release()
        await one.aclose()
        await other.aclose()


async def test_warm_memory_is_only_what_was_touched(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(memory) as saver:

        def fails(_: memoryview) -> bool:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(warming, "prefault", fails)
        with pytest.raises(OSError, match="Cannot allocate"):
            await saver.prepare(state(1.0))
        assert saver._engine._memory._idle[0][0].warm == 0
        await saver.save(state(1.0), 1)


@pytest.mark.parametrize("staging", ["copy", "overlap"])
async def test_beside_a_large_copy_the_loop_starts_no_thread_that_copies_digests_or_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staging: Literal["copy", "overlap"]
) -> None:
    # Whoever starts a thread waits until it runs, and beside a copy that takes long.
    start, copy = threading.Thread.start, Copier.copy
    copying = threading.Event()
    beside: set[str] = set()
    started: set[str] = set()

    def note(thread: threading.Thread) -> None:
        started.add(thread.name)
        if copying.is_set() and threading.current_thread() is threading.main_thread():
            beside.add(thread.name)
        start(thread)

    def noted(copier: Copier, *args: Any) -> None:
        copying.set()
        copy(copier, *args)

    monkeypatch.setattr(threading.Thread, "start", note)
    monkeypatch.setattr(Copier, "copy", noted)
    engine = Engine(copy_threads=2)
    async with engine, Saver(tmp_path, engine=engine, staging=staging) as saver:
        await saver.save(state(1.0, mib=65), 1)
    busy = "copy" if staging == "copy" else "fill"
    names = {"async-ckpt-digest_0", "async-ckpt-digest_1", f"async-ckpt-{busy}_1"}
    names |= {f"async_ckpt-store-write_{number}" for number in range(4)}
    assert names <= started
    assert not names & beside


@pytest.mark.parametrize(
    ("cores", "asked", "staging", "copying", "digesting"),
    [
        (1, None, "copy", 1, 1),
        (1, None, "overlap", 1, 1),
        (2, None, "copy", 2, 1),
        (2, None, "overlap", 1, 1),
        (4, None, "overlap", 3, 3),
        (32, None, "copy", 4, 4),
        (32, None, "overlap", 4, 4),
        (2, 2, "overlap", 2, 2),
    ],
)
async def test_beside_a_step_that_computes_a_core_is_left_to_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    asked: int | None,
    staging: Literal["copy", "overlap"],
    copying: int,
    digesting: int,
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    monkeypatch.setattr(engine_module, "processors", lambda: cores)
    async with Engine(copy_threads=asked) as engine, Saver(tmp_path, engine=engine, staging=staging) as saver:
        await saver.save(state(1.0, mib=65), 1)
    copier = "async-ckpt-copy" if staging == "copy" else "async-ckpt-fill"
    assert len({name for name in started if name.startswith(copier)}) == copying
    assert len({name for name in started if name.startswith("async-ckpt-digest")}) == digesting
