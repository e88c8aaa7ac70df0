"""``restore(mmap=True)``: views of the files, nothing read until it is looked at."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import DamagedCheckpointError, NoCheckpointError, StructureMismatchError
from async_ckpt.saver import Saver
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system import pages

from .conftest import assert_same, rich_state
from .test_saver_reading import DATA, MODEL, OPTIMIZER, Seam, cold, file_of, flip, large, place_of, save

pytestmark = pytest.mark.asyncio


@pytest.fixture
def seam(monkeypatch: pytest.MonkeyPatch) -> Seam:
    return Seam(monkeypatch)


async def test_it_is_the_state_that_was_saved(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        await saver.save(rich_state(), 1, metrics={"loss": 2.0})
        restored = await saver.restore(mmap=True)
    assert restored.step == 1
    assert restored.checkpoint.metrics == {"loss": 2.0}
    assert_same(rich_state(), restored.state)


async def test_nothing_but_the_headers_is_read(tmp_path: Path, seam: Seam) -> None:
    await save(tmp_path, large())
    cold(tmp_path)
    async with Saver(tmp_path) as saver:
        state = (await saver.restore(mmap=True)).state
    assert sorted(seam.data()) == [(name, 0, 4096) for name in DATA]
    with file_of(tmp_path, MODEL).open("rb") as file:
        assert not pages.resident(file.fileno(), 4096 * 512, 1 << 20, 50)
    assert_same(large(), state)


async def test_arrays_are_read_only_and_the_file_is_safe(tmp_path: Path) -> None:
    await save(tmp_path, large())
    before = file_of(tmp_path, MODEL).read_bytes()
    async with Saver(tmp_path) as saver:
        state = (await saver.restore(mmap=True)).state
        big = state["model"]["big"]
        with pytest.raises(ValueError, match="read-only"):
            big[0] = 1
        big.flags.writeable = True
        big[:] = 0
        assert file_of(tmp_path, MODEL).read_bytes() == before
        await saver.verify(1)


async def test_views_outlive_the_checkpoint_and_the_saver(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save(large(1), 1)
        await saver.save(large(2), 2)
        one = (await saver.restore(1, mmap=True)).state
        await saver.restore(2)
        await saver.save(large(3), 1)
        await saver.delete(1)
    shutil.rmtree(tmp_path)
    assert_same(large(1), one)


async def test_only_maps_just_those_files(tmp_path: Path, seam: Seam) -> None:
    await save(tmp_path, large())
    file_of(tmp_path, OPTIMIZER).write_bytes(bytes(file_of(tmp_path, OPTIMIZER).stat().st_size))
    async with Saver(tmp_path) as saver:
        state = (await saver.restore(only=["model/big", "model/z"], mmap=True)).state
        assert_same({"model": {name: large()["model"][name] for name in ("big", "z")}}, state)
        assert {name for name, _, _ in seam.data()} == {MODEL}
        with pytest.raises(StructureMismatchError, match="nothing"):
            await saver.restore(only="absent/**", mmap=True)


async def test_it_cannot_be_read_into_a_state(tmp_path: Path) -> None:
    live = large()
    await save(tmp_path, large(1))
    async with Saver(tmp_path) as saver:
        with pytest.raises(ValueError, match="mmap"):
            await saver.restore(into=live, mmap=True)
    assert_same(large(), live)


async def test_sizes_headers_and_manifest_are_checked_and_tensors_are_not(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save(large(1), 1)
        await saver.save(large(2), 2)
    newer = tmp_path / "step-00000002"

    async def steps() -> int:
        async with Saver(tmp_path) as saver:
            return (await saver.restore(mmap=True)).step

    flip(newer / MODEL, 40)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=f"{MODEL}: the header") as caught:
            await saver.restore(2, mmap=True)
        assert caught.value.path == str(newer / MODEL)
        assert (await saver.restore(mmap=True)).step == 1
    flip(newer / MODEL, 40)
    flip(newer / MODEL, 9000)
    assert await steps() == 2
    flip(newer / "manifest.json", 90)
    assert await steps() == 1
    flip(newer / "manifest.json", 90)
    (newer / OPTIMIZER).write_bytes((newer / OPTIMIZER).read_bytes()[:-1])
    assert await steps() == 1


async def test_a_tree_that_asks_for_the_wrong_kind_is_damage(tmp_path: Path) -> None:
    from .test_saver_damage import rewrite

    await save(tmp_path, {"a": np.ones(3)})
    rewrite(tmp_path, 1, lambda body: body.update(tree=["dict", "a", ["array", 0, "bytes"]]))
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="manifest"):
            await saver.restore(mmap=True)


async def test_the_reader_gives_the_bare_state_of_a_step(tmp_path: Path) -> None:
    await save(tmp_path, large())
    async with Saver(tmp_path) as saver:
        assert_same(large(), await saver._reader.mapped(1))
        assert_same({"model": {"a": large()["model"]["a"]}}, await saver._reader.mapped(1, "model/a"))
        with pytest.raises(NoCheckpointError):
            await saver._reader.mapped(2)
        assert await saver._store.pinned() == set()
        file, offset, _ = place_of(tmp_path, "model/a")
        file.write_bytes(file.read_bytes()[: offset + 1])
        with pytest.raises(DamagedCheckpointError, match="instead of"):
            await saver._reader.mapped(1)


async def test_a_state_without_arrays_maps_nothing(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        await saver.save({"epoch": 3, "empty": np.empty((0, 2))}, 0)
        assert_same({"epoch": 3, "empty": np.empty((0, 2))}, (await saver.restore(mmap=True)).state)


async def test_in_memory_the_copy_is_nobody_elses(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        await saver.save({"a": np.ones(3)}, 1)
        one, two = [(await saver.restore(mmap=True)).state["a"] for _ in range(2)]
        one.flags.writeable = True
        one[:] = 7
        assert two.tolist() == [1.0, 1.0, 1.0]
        await saver.verify(1)


async def test_torch_tensors_share_the_mapping_and_writing_to_them_changes_no_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {"model": {"w": torch.arange(1 << 20), "b": torch.ones(3, dtype=torch.bfloat16)}}
    await save(tmp_path, state)
    cold(tmp_path)
    before = file_of(tmp_path, MODEL).stat()
    async with Saver(tmp_path) as saver:
        found = (await saver.restore(mmap=True)).state["model"]
        with file_of(tmp_path, MODEL).open("rb") as file:
            assert not pages.resident(file.fileno(), 0, before.st_size, 50)
        assert torch.equal(found["w"], state["model"]["w"])
        assert torch.equal(found["b"], state["model"]["b"])
        found["w"].zero_()
        await saver.verify(1)


async def test_where_the_mapping_is_read_only_numpy_stands_in_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    system = pages._system
    assert system is not None
    real = system.map

    def strict(size: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        if fd >= 0 and protection & 2:
            raise OSError(12, "Cannot allocate memory")
        return real(size, protection, flags, fd, offset)

    await save(tmp_path, {"w": torch.arange(5), "c": torch.ones(2, dtype=torch.complex128)})
    monkeypatch.setattr(system, "map", strict)
    async with Saver(tmp_path) as saver:
        found = (await saver.restore(mmap=True)).state
    assert_same({"w": np.arange(5), "c": np.ones(2, np.complex128)}, found)
    assert not found["w"].flags.writeable


async def test_jax_arrays_come_as_numpy_and_keys_as_keys(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    key = jax.random.key(3)
    await save(tmp_path, {"w": jax.numpy.arange(5.0), "key": key})
    async with Saver(tmp_path) as saver:
        found = (await saver.restore(mmap=True)).state
    assert_same(np.arange(5, dtype=np.float32), found["w"])
    assert not found["w"].flags.writeable
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(key).tolist()
