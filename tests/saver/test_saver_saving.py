"""Saves in the background: order, waiting, cancelling, failing, closing."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import DirectoryLockedError, ProtocolError, SaveError
from async_ckpt.saver import PendingSave, Saver
from async_ckpt.saver.writing import Job
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from async_ckpt.system.threads import Worker

from .conftest import Faults, assert_same

pytestmark = pytest.mark.asyncio


def state(value: float, size: int = 1000) -> dict[str, Any]:
    return {"model": {"w": np.full(size, value)}, "optimizer": {"m": np.full(3, value)}}


def phase(pending: PendingSave) -> str:
    return pending.progress.phase


# -- order and waiting ---------------------------------------------------------------------------


@pytest.mark.loop_flavours
async def test_saves_are_taken_in_the_order_they_were_asked_for(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store(), max_to_keep=None) as saver:
        asked = [3, 1, 4, 15, 9]
        pending = [saver.start_save(state(step), step) for step in asked]
        ended: list[int] = []

        async def wait(index: int) -> None:
            ended.append((await pending[index]).step)

        await asyncio.gather(*(wait(index) for index in reversed(range(5))))
        assert ended == asked
        for step in asked:
            assert_same(state(step), (await saver.restore(step)).state)


async def test_start_save_returns_at_once_and_staged_says_when_to_go_on(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("write", "model-00001-of-00001.safetensors")
    live = state(1.0)
    async with Saver(memory) as saver:
        pending = saver.start_save(live, 1)
        assert phase(pending) in ("queued", "staging")
        assert pending.progress.bytes_total == 0
        await pending.staged()
        live["model"]["w"][:] = 2.0
        await thread.call(came.wait)
        assert not pending.done()
        assert phase(pending) == "writing"
        assert pending.progress.bytes_total == 2 * 4096 + 8000 + 24
        go.set()
        await pending
        assert phase(pending) == "done"
        assert pending.progress.bytes_done == pending.progress.bytes_total
        assert "step=1 done" in repr(pending)
        assert_same(state(1.0), (await saver.restore()).state)


async def test_plain_values_are_those_of_the_call(memory: MemoryStore) -> None:
    live = {"epoch": 1, "log": [1, 2]}
    async with Saver(memory) as saver:
        pending = saver.start_save(live, 1)
        live["epoch"] = 2
        live["log"].append(3)  # type: ignore[attr-defined]
        await pending
        assert (await saver.restore()).state == {"epoch": 1, "log": [1, 2]}


async def test_a_cancelled_waiter_does_not_cancel_the_save(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("commit")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        waiters = [
            asyncio.ensure_future(saver.save(state(2.0), 2)),
            asyncio.ensure_future(pending.staged()),
            asyncio.ensure_future(pending.written()),
            asyncio.ensure_future(_await(pending)),
            asyncio.ensure_future(saver.drain()),
        ]
        await thread.call(came.wait)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        assert not pending.done()
        go.set()
        assert (await pending).step == 1
        await saver.drain()
        assert [c.step for c in await saver.checkpoints()] == [1, 2]


async def _await(pending: Any) -> Any:
    return await pending


async def test_drain_waits_for_everything_and_raises_nothing(memory: MemoryStore, faults: Faults) -> None:
    faults.fail("begin", OSError(errno.ENOSPC, "No space left on device"))
    async with Saver(memory) as saver:
        await saver.drain()
        pending = saver.start_save(state(1.0), 1)
        await saver.drain()
        assert pending.done()
        with pytest.raises(SaveError):
            await pending


async def test_a_step_that_exists_is_replaced(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        await saver.save(state(1.0), 1)
        await saver.save(state(2.0), 1)
        assert [c.step for c in await saver.checkpoints()] == [1]
        assert_same(state(2.0), (await saver.restore()).state)


async def test_the_layout_may_change_from_save_to_save(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        for step, size in enumerate([10, 10, 5000, 1]):
            await saver.save(state(step, size), step)
            assert_same(state(step, size), (await saver.restore()).state)


# -- cancelling ----------------------------------------------------------------------------------


async def test_a_queued_save_is_cancelled_at_once(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("commit")
    async with Saver(memory) as saver:
        first = saver.start_save(state(1.0), 1)
        second = saver.start_save(state(2.0), 2)
        await thread.call(came.wait)
        assert second.cancel()
        assert second.cancel()
        with pytest.raises(SaveError) as caught:
            await second
        assert caught.value.outcome == "cancelled"
        assert second.progress.phase == "cancelled"
        # Its copy no longer stands in anybody's way.
        async with saver.mutating():
            pass
        go.set()
        await first
        assert [c.step for c in await saver.checkpoints()] == [1]
    assert not [op for op, step, _ in faults.seen if step == 2]


async def test_a_save_that_waits_for_a_mutation_can_be_cancelled(memory: MemoryStore) -> None:
    async with Saver(memory) as saver, saver.mutating():
        started = await asyncio.create_task(_start_elsewhere(saver))
        assert started.cancel()
        with pytest.raises(SaveError, match="cancelled"):
            await started
        await saver.drain()


async def _start_elsewhere(saver: Saver) -> Any:
    from contextvars import Context

    return Context().run(saver.start_save, state(1.0), 1)


@pytest.mark.parametrize("name", ["model-00001-of-00001.safetensors", "manifest.json"])
async def test_cancelling_while_writing_leaves_nothing(
    memory: MemoryStore, faults: Faults, thread: Worker, name: str
) -> None:
    came, go = faults.hold("write", name)
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        await thread.call(came.wait)
        assert pending.cancel()
        go.set()
        with pytest.raises(SaveError) as caught:
            await pending
        assert caught.value.outcome == "cancelled"
        assert caught.value.step == 1
        with pytest.raises(SaveError, match="cancelled"):
            await pending.written()
        assert await saver.checkpoints() == []
        assert not memory.place.attempts
        faults.hold("write", name)[1].set()
        await saver.save(state(2.0), 2)
    # Nobody is told at the end of what they asked for.


async def test_cancelling_ends_the_digesting_too(
    memory: MemoryStore, thread: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from async_ckpt.saver import files
    from async_ckpt.state.staging import digest_image as digest

    came, go = threading.Event(), threading.Event()

    def held(*args: Any, **kwargs: Any) -> Any:
        came.set()
        assert go.wait(30)
        return digest(*args, **kwargs)

    monkeypatch.setattr(files, "digest_image", held)
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        await thread.call(came.wait)
        while pending.progress.bytes_done < pending.progress.bytes_total:
            await asyncio.sleep(0)
        assert pending.cancel()
        go.set()
        with pytest.raises(SaveError, match="cancelled"):
            await pending
        assert not memory.place.attempts


async def test_a_loop_that_is_thrown_away_is_not_held_up(memory: MemoryStore) -> None:
    saver = Saver(memory)
    job = Job(
        pending=(pending := PendingSave(1, held=False, left=lambda: None)),
        place=saver._gate.take("copy"),
        flatten=lambda: saver._flatten(state(1.0)),
        labels=saver._labels(None, None),
        held=False,
    )
    saving = saver._writer.save(job)
    saving.send(None)
    saving.close()
    assert not pending.done()
    await saver.aclose()


async def test_cancelling_comes_too_late_once_the_rename_has_begun(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("commit")
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        await thread.call(came.wait)
        assert pending.progress.phase == "committing"
        assert not pending.cancel()
        go.set()
        assert (await pending).step == 1
        assert not pending.cancel()


async def test_cancelling_a_save_that_failed_is_false(memory: MemoryStore, faults: Faults) -> None:
    faults.fail("begin", OSError(errno.EIO, "Input/output error"))
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        with pytest.raises(SaveError):
            await pending
        assert not pending.cancel()


# -- failing -------------------------------------------------------------------------------------

OPERATIONS = ["open", "begin", "write", "commit"]


@pytest.mark.parametrize("op", [*OPERATIONS, "manifest"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_failure_anywhere_leaves_the_older_ones_and_the_next_save_works(
    memory: MemoryStore, faults: Faults, op: str, code: int
) -> None:
    async with Saver(memory) as saver:
        await saver.save(state(1.0), 1)
        cause = OSError(code, "broken")
        faults.fail("write" if op == "manifest" else op, cause, "manifest.json" if op == "manifest" else None)
        with pytest.raises(SaveError) as caught:
            await saver.save(state(2.0), 2)
        assert caught.value.outcome == "failed"
        assert caught.value.step == 2
        assert str(caught.value.path).startswith(memory.location)
        assert caught.value.__cause__ is cause
        assert_same(state(1.0), (await saver.restore()).state)
        assert not memory.place.attempts
        faults.fail("write" if op == "manifest" else op, None, "manifest.json" if op == "manifest" else None)
        await saver.save(state(3.0), 3)
        assert [c.step for c in await saver.checkpoints()] == [1, 3]


@pytest.mark.parametrize("op", [*OPERATIONS, "committed"])
@pytest.mark.parametrize("error", [RuntimeError("bug"), StopIteration(3), MemoryError()], ids=repr)
async def test_any_exception_of_a_store_is_a_save_error(
    memory: MemoryStore, faults: Faults, op: str, error: Exception
) -> None:
    async with Saver(memory) as saver:
        faults.fail(op, error)
        with pytest.raises(SaveError, match="step 2") as caught:
            await saver.save(state(2.0), 2)
        found: BaseException | None = caught.value
        while found is not None and found is not error:
            found = found.__cause__
        assert found is error
        faults.fail(op, None)
        await saver.save(state(3.0), 3)


async def test_an_error_after_the_rename_is_unknown_and_nothing_is_deleted_on_its_strength(
    memory: MemoryStore, faults: Faults
) -> None:
    async with Saver(memory, max_to_keep=1) as saver:
        await saver.save(state(1.0), 1)
        faults.fail("committed", OSError(errno.EIO, "fsync"))
        with pytest.raises(SaveError) as caught:
            await saver.save(state(2.0), 2)
        assert caught.value.outcome == "unknown"
        assert await saver.prune() == []
        assert [c.step for c in await saver.checkpoints()] == [1, 2]
        faults.fail("committed", None)
        await saver.save(state(3.0), 3)
        assert [c.step for c in await saver.checkpoints()] == [2, 3]
        await saver.save(state(2.0), 2)
        assert await saver.prune() == []
        assert [c.step for c in await saver.checkpoints()] == [3]


async def test_old_ones_that_cannot_be_deleted_do_not_fail_the_save(
    memory: MemoryStore, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    async with Saver(memory, max_to_keep=1) as saver:
        await saver.save(state(1.0), 1)
        faults.fail("remove", OSError(errno.EACCES, "Permission denied"))
        assert (await saver.save(state(2.0), 2)).step == 2
        assert "Permission denied" in caplog.text
        faults.fail("remove", None)
        await saver.save(state(3.0), 3)
        assert [c.step for c in await saver.checkpoints()] == [3]


async def test_a_leaf_that_cannot_be_copied_fails_the_save_alone(memory: MemoryStore) -> None:
    live = {"w": np.ones(10)}
    async with Saver(memory) as saver:
        flat = saver._flatten(live)
        live["w"].resize(12, refcheck=False)
        pending = saver._start(flat, 1)
        with pytest.raises(SaveError, match="changed its shape"):
            await pending.staged()
        async with saver.mutating():
            await asyncio.sleep(0)
        await saver.save(live, 2)


async def test_two_writers_of_one_place(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as first, Saver(make_store()) as second:
        await first.open()
        await first.open()
        with pytest.raises(DirectoryLockedError):
            await second.save(state(1.0), 1)
        with pytest.raises(DirectoryLockedError):
            await second.open()
        await first.save(state(1.0), 1)
        await first.aclose()
        await second.save(state(2.0), 2)


async def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    async with Saver(tmp_path / "file") as saver:
        with pytest.raises(SaveError) as caught:
            await saver.save(state(1.0), 1)
    assert caught.value.step == 1
    assert caught.value.path == str(tmp_path / "file")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.leaks  # the store's own task is ended the hard way, too
async def test_ending_the_task_from_outside_still_resolves_every_save(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("write")
    saver = Saver(memory)
    pending = [saver.start_save(state(step), step) for step in (1, 2)]
    await thread.call(came.wait)
    (task,) = [t for t in asyncio.all_tasks() if t.get_name().startswith("async-ckpt save")]
    task.cancel()
    go.set()
    for one in pending:
        with pytest.raises(SaveError, match="ended from outside"):
            await one
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not memory.place.attempts
    await saver.save(state(3.0), 3)
    await saver.aclose()


# -- closing -------------------------------------------------------------------------------------


async def test_closing_drains(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        pending = [saver.start_save(state(step), step) for step in range(3)]
    assert [(await one).step for one in pending] == [0, 1, 2]


async def test_a_failure_nobody_awaited_leaves_at_the_close_once(memory: MemoryStore, faults: Faults) -> None:
    saver = Saver(memory)
    for op, step in (("begin", 1), ("commit", 2)):
        faults.fail(op, OSError(errno.EIO, f"broken {op}"))
        saver.start_save(state(1.0), step)
        await saver.drain()
        faults.fail(op, None)
    with pytest.raises(SaveError, match="broken begin") as caught:
        await saver.aclose()
    assert "broken commit" in "".join(caught.value.__notes__)
    await saver.aclose()


@pytest.mark.parametrize("ask", ["staged", "written", "itself"])
async def test_a_failure_somebody_was_told_of_does_not_leave_again(
    memory: MemoryStore, faults: Faults, ask: str
) -> None:
    faults.fail("open" if ask != "staged" else "begin", OSError(errno.EIO, "broken"))
    async with Saver(memory) as saver:
        flat = saver._flatten(state(1.0))
        if ask == "staged":
            flat = saver._flatten({"w": (w := np.ones(3))})
            w.resize(4, refcheck=False)
        pending = saver._start(flat, 1)
        with pytest.raises(SaveError):
            await (pending if ask == "itself" else getattr(pending, ask)())


async def test_an_error_of_the_block_is_the_one_that_leaves(memory: MemoryStore, faults: Faults) -> None:
    faults.fail("begin", OSError(errno.EIO, "broken"))
    with pytest.raises(KeyError) as caught:
        async with Saver(memory) as saver:
            saver.start_save(state(1.0), 1)
            raise KeyError("mine")
    assert "broken" in "".join(caught.value.__notes__)


async def test_cancelling_the_close_ends_the_waiting_only(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("commit")
    saver = Saver(memory)
    pending = saver.start_save(state(1.0), 1)
    await thread.call(came.wait)
    closing = asyncio.ensure_future(saver.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    go.set()
    assert (await pending).step == 1
    await saver.aclose()
    assert memory.place.writer is None


async def test_a_store_that_cannot_be_closed_says_so_once(tmp_path: Path) -> None:
    class Stuck(LocalStore):
        async def aclose(self) -> None:
            await super().aclose()
            raise SaveError("stuck", path=self.location)

    saver = Saver(Stuck(tmp_path))
    await saver.save(state(1.0), 1)
    with pytest.raises(SaveError, match="stuck"):
        await saver.aclose()
    await saver.aclose()


async def test_sixteen_savers_do_not_disturb_each_other(tmp_path: Path) -> None:
    savers = [Saver(tmp_path / str(i), max_to_keep=2) for i in range(16)]
    for step in range(3):
        await asyncio.gather(*(saver.save(state(i * 10 + step), step) for i, saver in enumerate(savers)))
    for i, saver in enumerate(savers):
        assert [c.step for c in await saver.checkpoints()] == [1, 2]
        assert_same(state(i * 10 + 2), (await saver.restore()).state)
    await asyncio.gather(*(saver.aclose() for saver in savers))


# -- held saves, as a session uses them ----------------------------------------------------------


async def test_a_held_save_waits_for_permission_between_the_last_byte_and_the_rename(
    make_store: Callable[[], Any],
) -> None:
    async with Saver(make_store(), max_to_keep=1) as saver:
        await saver.save(state(0.0), 0)
        held = saver._start(saver._flatten(state(1.0)), 1, metrics={"loss": 1.0}, expects_report=True)
        await held.written()
        assert held.progress.phase == "written"
        assert held.progress.bytes_done == held.progress.bytes_total
        assert [c.step for c in await saver.checkpoints()] == [0]
        held.allow_commit()
        assert (await held).step == 1
        # No prune of its own: that is for after the report.
        assert [c.step for c in await saver.checkpoints()] == [0, 1]
        assert_same(state(1.0), held.view())
        held.release()
        assert await saver.prune() == [0]


async def test_permission_may_be_given_early(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        held = saver._start(saver._flatten(state(1.0)), 1)
        held.allow_commit()
        assert (await held).step == 1
        held.release()
        held.release()


async def test_a_held_save_can_be_cancelled_while_it_waits(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        held = saver._start(saver._flatten(state(1.0)), 1)
        await held.written()
        assert held.cancel()
        with pytest.raises(SaveError, match="cancelled"):
            await held
        assert await saver.checkpoints() == []
        assert not memory.place.attempts


async def test_closing_ends_a_held_save_that_nobody_allows(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        committed = saver._start(saver._flatten(state(1.0)), 1)
        committed.allow_commit()
        await committed
        waiting = saver._start(saver._flatten(state(2.0)), 2)
    with pytest.raises(SaveError, match="cancelled"):
        await waiting
    assert sorted(memory.place.steps) == [1]


async def test_nobody_is_told_at_the_close_of_what_was_cancelled(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        asked = saver._start(saver._flatten(state(1.0)), 1)
        await asked.written()
        assert asked.cancel()
        never_allowed = saver._start(saver._flatten(state(2.0)), 2)
        await never_allowed.written()
    assert asked.progress.phase == never_allowed.progress.phase == "cancelled"


async def test_the_next_copy_waits_until_the_memory_is_given_back(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        held = saver._start(saver._flatten(state(1.0)), 1)
        held.allow_commit()
        await held
        following = saver.start_save(state(2.0), 2)
        staged = asyncio.ensure_future(following.staged())
        for _ in range(50):
            await asyncio.sleep(0)
        assert phase(following) == "queued"
        assert not staged.done()
        assert_same(state(1.0), held.view())
        held.release()
        await staged
        await following
        with pytest.raises(ProtocolError, match="released"):
            held.view()
        with pytest.raises(ProtocolError, match="released"):
            following.view()


async def test_a_view_before_staging_is_refused(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        pending = saver.start_save(state(1.0), 1)
        with pytest.raises(ProtocolError, match="not staged"):
            pending.view()


async def test_a_view_is_read_only_and_survives_later_saves(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        held = saver._start(saver._flatten(state(1.0)), 1)
        held.allow_commit()
        await held
        view = held.view()
        with pytest.raises(ValueError, match="read-only"):
            view["model"]["w"][0] = 5.0
        held.release()
        for step in (2, 3):
            await saver.save(state(step), step)
        assert_same(state(1.0), view)


async def test_the_memory_is_used_again(memory: MemoryStore, faults: Faults) -> None:
    async with Saver(memory) as saver:
        await saver.save(state(1.0), 1)
        pages = saver._engine._memory._idle[0][0]._map
        faults.fail("commit", OSError(errno.EIO, "broken"))
        failed = saver.start_save(state(2.0), 2)
        with pytest.raises(SaveError) as caught:
            await failed
        faults.fail("commit", None)
        held = saver._start(saver._flatten(state(3.0)), 3)
        held.allow_commit()
        await held
        held.view()
        held.release()
        await saver.save(state(4.0), 4)
        assert caught.value.__traceback__ is not None
        assert [arena._map for arena, _ in saver._engine._memory._idle] == [pages]


async def test_nothing_is_global(tmp_path: Path) -> None:
    place = MemoryPlace()
    one, two = Saver(MemoryStore(place)), Saver(tmp_path)
    held = one._start(one._flatten(state(1.0)), 1)
    await held.written()
    async with two.mutating():
        pass
    await two.save(state(2.0), 2)
    held.allow_commit()
    await held
    await one.aclose()
    await two.aclose()
