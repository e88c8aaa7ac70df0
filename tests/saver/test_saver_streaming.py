"""A state larger than the memory it may take goes through a window; one that never changes is not copied."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from async_ckpt.errors import ProtocolError, SaveError
from async_ckpt.saver import Saver
from async_ckpt.state.copying import Copier
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker

from .conftest import Faults, assert_same, rich_state

pytestmark = pytest.mark.asyncio

MIB = 2**20


def big_state(seed: int = 0) -> dict[str, Any]:
    """About 12 MiB in three groups, with everything that is hard to cut in pieces."""
    rng = np.random.default_rng(seed)
    return {
        **rich_state(seed),
        "large": {
            "w": rng.standard_normal((1000, 500)),
            "t": rng.standard_normal((700, 500)).T,
            "be": rng.standard_normal(100_000).astype(">f8"),
        },
        "many": {f"t{index}": rng.standard_normal(index) for index in range(300)},
    }


@pytest.mark.parametrize("staging_bytes", [MIB, 2 * MIB, 5 * MIB])
async def test_a_state_that_goes_through_a_window_comes_back_as_it_was(
    make_store: Any, staging_bytes: int
) -> None:
    live = big_state()
    async with Saver(make_store(), staging_bytes=staging_bytes) as saver:
        await saver.save(live, 1)
        assert saver._engine.memory_bytes <= staging_bytes
        assert_same((await saver.restore(1)).state, big_state())
        await saver.verify(1)
        live["large"]["w"][:] = 7.0
        await saver.save(live, 2)
        assert (await saver.restore(2)).state["large"]["w"].min() == 7.0
        assert_same((await saver.restore(1)).state, big_state())


async def test_the_window_changes_no_byte_of_a_file(tmp_path: Path) -> None:
    for name, cap in (("whole", None), ("window", MIB)):
        async with Saver(tmp_path / name, staging_bytes=cap) as saver:
            await saver.save(big_state(), 1)
    names = sorted(path.name for path in (tmp_path / "whole" / "step-00000001").iterdir())
    for name in names:
        if name != "manifest.json":
            one, other = (tmp_path / way / "step-00000001" / name for way in ("whole", "window"))
            assert one.read_bytes() == other.read_bytes(), name
    with safe_open(tmp_path / "window" / "step-00000001" / "large-00001-of-00001.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("w"), big_state()["large"]["w"])


async def test_a_small_state_is_staged_as_a_whole_under_a_cap(memory: MemoryStore) -> None:
    async with Saver(memory, staging_bytes=64 * MIB) as saver:
        pending = saver.start_save(big_state(), 1)
        await pending.staged()
        assert pending.viewable
        await pending


async def test_the_state_may_change_once_all_of_it_has_been_read(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    live = {"x": {"w": np.zeros(MIB // 2)}}
    came, go = faults.hold("write", "x-00001-of-00001.safetensors")
    async with Saver(memory, staging_bytes=MIB) as saver:
        pending = saver.start_save(live, 1)
        await thread.call(came.wait)
        staged = asyncio.ensure_future(pending.staged())
        mutation = saver.mutating()
        entering = asyncio.ensure_future(mutation.__aenter__())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not staged.done()
        assert not entering.done()
        assert pending.progress.phase == "staging"
        go.set()
        await staged
        await entering
        live["x"]["w"][:] = 1.0
        await mutation.__aexit__(None, None, None)
        await pending
        assert (await saver.restore(1)).state["x"]["w"].max() == 0.0


async def test_what_was_never_in_memory_as_a_whole_cannot_be_looked_at_there(memory: MemoryStore) -> None:
    async with Saver(memory, staging_bytes=MIB) as saver:
        pending = saver._start(saver._flatten({"x": {"w": np.zeros(MIB)}}), 1)
        await pending.written()
        assert not pending.viewable
        with pytest.raises(ProtocolError, match="not kept in memory as a whole"):
            pending.view()
        pending.allow_commit()
        await pending
        pending.release()


async def test_a_save_that_fails_in_the_window_lets_the_state_go(memory: MemoryStore, faults: Faults) -> None:
    live = big_state()
    faults.fail("write", OSError(28, "No space left on device"), "large-00001-of-00001.safetensors")
    async with Saver(memory, staging_bytes=MIB) as saver:
        pending = saver.start_save(live, 1)
        with pytest.raises(SaveError, match="No space"):
            await pending.staged()
        async with saver.mutating():
            live["large"]["w"][:] = 1.0
        with pytest.raises(SaveError, match="No space"):
            await pending
        faults.fail("write", None, "large-00001-of-00001.safetensors")
        await saver.save(live, 2)
        assert_same((await saver.restore(2)).state, live)


async def test_cancelling_a_save_in_the_window_ends_its_threads(
    memory: MemoryStore, faults: Faults, thread: Worker
) -> None:
    came, go = faults.hold("write", "large-00001-of-00001.safetensors")
    async with Saver(memory, staging_bytes=MIB) as saver:
        pending = saver.start_save(big_state(), 1)
        await thread.call(came.wait)
        assert pending.cancel()
        go.set()
        with pytest.raises(SaveError, match="cancelled"):
            await pending
        assert await saver.checkpoints() == []
        await saver.save(big_state(), 2)


async def test_an_array_that_is_resized_under_the_window_fails_the_save(memory: MemoryStore) -> None:
    array = np.zeros((MIB, 2))
    async with Saver(memory, staging_bytes=MIB) as saver:
        pending = saver.start_save({"x": {"w": array}}, 1)
        array.resize((2, 2), refcheck=False)
        with pytest.raises(SaveError, match="x/w changed its shape"):
            await pending
        assert await saver.checkpoints() == []


class Meddling:
    """Changes an array under the copy, once the copier has read it for the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, array: Any) -> None:
        copy, lock = Copier.copy, threading.Lock()
        left = [1]

        def patched(copier: Copier, *args: Any) -> None:
            copy(copier, *args)
            with lock:
                if left:
                    left.pop()
                    array[:] += 1.0

        monkeypatch.setattr(Copier, "copy", patched)


@pytest.mark.parametrize("staging_bytes", [None, MIB])
async def test_a_state_that_is_changed_under_the_copy_is_named_if_that_is_asked_for(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, staging_bytes: int | None
) -> None:
    live = {"x": {"changed": np.zeros(10), "calm": np.full(MIB, np.nan)}}
    async with Saver(memory, staging_bytes=staging_bytes, validate_staging=True) as saver:
        await saver.save(live, 1)
        Meddling(monkeypatch, live["x"]["changed"])
        with pytest.raises(SaveError, match="x/changed changed while being copied") as caught:
            await saver.save(live, 2)
        assert "calm" not in str(caught.value)
        await saver.save(live, 3)
        assert [found.step for found in await saver.checkpoints()] == [1, 3]
