"""How a checkpoint is read: what of it, to where, by whom, and what is said when it is not what was saved."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver import Saver
from async_ckpt.storage import posix
from async_ckpt.storage.manifest import decode_manifest
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.storage.ranges import WHOLE

from .conftest import assert_same

pytestmark = pytest.mark.asyncio

MODEL = "model-00001-of-00001.safetensors"
OPTIMIZER = "optimizer-00001-of-00001.safetensors"
DATA = (MODEL, OPTIMIZER)
PAGE = 4096


class Seam:
    """Stands where bytes come from the disk: notes what is read, and calls something before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self.addresses: list[int] = []
        self.before: Callable[[str, int], None] = lambda _name, _offset: None
        self._real = posix.preadv
        monkeypatch.setattr(posix, "preadv", self)

    def __call__(self, fd: int, target: memoryview, offset: int) -> int:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        self.before(name, offset)
        count = self._real(fd, target, offset)
        self.reads.append((name, offset, len(target)))
        self.addresses.append(int(np.frombuffer(target, np.uint8).ctypes.data))
        return count

    def data(self) -> list[tuple[str, int, int]]:
        return [read for read in self.reads if read[0] in DATA]


@pytest.fixture
def seam(monkeypatch: pytest.MonkeyPatch) -> Seam:
    return Seam(monkeypatch)


def warm(directory: Path) -> None:
    for file in directory.glob("step-*/*"):
        file.read_bytes()


def cold(directory: Path) -> None:
    for file in directory.glob("step-*/*"):
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@pytest.fixture(params=[warm, cold])
def cache(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Brings the files into the page cache, or out of it."""
    found: Callable[[Path], None] = request.param
    return found


def flip(file: Path, at: int) -> None:
    fd = os.open(file, os.O_RDWR)
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1]), at)
    os.close(fd)


def file_of(directory: Path, name: str) -> Path:
    return directory / "step-00000001" / name


def place_of(directory: Path, path: str) -> tuple[Path, int, int]:
    """The file, the offset and the length of a tensor."""
    manifest = decode_manifest(file_of(directory, "manifest.json").read_bytes())
    (entry,) = (entry for entry in manifest.tensors if entry.path == path)
    return file_of(directory, manifest.files[entry.file].name), entry.offset, entry.bytes


def large(seed: int = 0) -> dict[str, Any]:
    """A tensor of several pieces, one of a single piece, and small ones between and behind them."""

    def draw(size: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng([seed, size]).integers(0, 256, size, np.uint8)

    model = {"a": 100, "big": 11 * WHOLE + 12_345, "c": 1_001, "mid": WHOLE + 77, "none": 0, "z": 5}
    optimizer = {"m": 2 * WHOLE, "v": 9}
    return {
        "model": {name: draw(size) for name, size in model.items()},
        "optimizer": {name: draw(size) for name, size in optimizer.items()},
    }


def zeros(state: Any) -> Any:
    return {
        group: {name: np.zeros_like(array) for name, array in part.items()} for group, part in state.items()
    }


def placed(directory: Path, path: str, nbytes: int) -> np.ndarray[Any, Any]:
    """An array that starts where its tensor starts in the file, counted within a page."""
    _, offset, _ = place_of(directory, path)
    memory = np.zeros(nbytes + PAGE, np.uint8)
    start = (offset - memory.ctypes.data) % PAGE
    return memory[start : start + nbytes]


async def save(directory: Path, state: Any) -> None:
    async with Saver(directory) as saver:
        await saver.save(state, 1)


async def test_every_byte_lands_where_it_belongs(tmp_path: Path, cache: Callable[[Path], None]) -> None:
    await save(tmp_path, large())
    live = zeros(large())
    async with Saver(tmp_path) as saver:
        cache(tmp_path)
        assert_same(large(), (await saver.restore()).state)
        cache(tmp_path)
        assert (await saver.restore(into=live)).state is live
        cache(tmp_path)
        await saver.verify(1)
    assert_same(large(), live)


async def test_a_tensor_in_the_page_cache_is_read_straight_into_its_array(tmp_path: Path, seam: Seam) -> None:
    await save(tmp_path, large())
    # Where an allocator puts an array varies, and where the processor copies slowly it is read another way.
    live = {
        group: {name: placed(tmp_path, f"{group}/{name}", array.nbytes) for name, array in part.items()}
        for group, part in large().items()
    }
    warm(tmp_path)
    async with Saver(tmp_path) as saver:
        await saver.restore(into=live)
    assert_same(large(), live)
    for array in (live["model"]["big"], live["model"]["mid"], live["optimizer"]["m"]):
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        sizes = [read[2] for read, at in zip(seam.reads, seam.addresses, strict=True) if start <= at < end]
        assert sum(sizes) == array.nbytes


async def test_several_threads_read_one_tensor(tmp_path: Path, seam: Seam) -> None:
    await save(tmp_path, {"model": {"big": np.ones(40 * WHOLE, np.uint8)}})
    both = threading.Barrier(2, timeout=30)
    met: set[int] = set()

    def meet(name: str, _offset: int) -> None:
        thread = threading.get_ident()
        if name in DATA and len(met) < 2 and thread not in met:
            met.add(thread)
            both.wait()

    seam.before = meet
    async with Saver(tmp_path) as saver:
        await saver.restore()
    assert len(met) == 2


@pytest.mark.parametrize("only", ["model/**", ["model/**"], iter(["model/*", "model/z"])])
async def test_only_reads_just_those_files(tmp_path: Path, seam: Seam, only: Any) -> None:
    await save(tmp_path, large())
    warm(tmp_path)
    async with Saver(tmp_path) as saver:
        restored = await saver.restore(only=only)
    assert_same({"model": large()["model"]}, restored.state)
    assert {name for name, _, _ in seam.data()} == {MODEL}
    assert sum(size for _, _, size in seam.data()) == sum(a.nbytes for a in large()["model"].values())


async def test_only_reads_just_those_bytes(tmp_path: Path, seam: Seam, cache: Callable[[Path], None]) -> None:
    await save(tmp_path, large())
    cache(tmp_path)
    only = ["model/a", "model/c", "model/mid", "optimizer/v"]
    async with Saver(tmp_path) as saver:
        restored = await saver.restore(only=only)
    assert_same({name: large()["model"][name] for name in ("a", "c", "mid")}, restored.state["model"])
    wanted = 100 + 1_001 + WHOLE + 77 + 9
    read = sum(size for _, _, size in seam.data())
    # What comes straight from the device comes in whole pages.
    assert read == wanted if cache is warm else wanted <= read <= wanted + 2 * PAGE * len(only)
    _, start, length = place_of(tmp_path, "model/big")
    inside = [at for name, at, _ in seam.data() if name == MODEL and start <= at < start + length - PAGE]
    assert inside == []


@pytest.mark.parametrize("at", [0, 4 * WHOLE - 1, 4 * WHOLE, 6 * WHOLE + 1, 11 * WHOLE + 12_344])
async def test_a_flipped_bit_anywhere_in_a_tensor_of_many_pieces_is_found(
    tmp_path: Path, cache: Callable[[Path], None], at: int
) -> None:
    await save(tmp_path, large())
    file, offset, _ = place_of(tmp_path, "model/big")
    flip(file, offset + at)
    live = zeros(large())
    async with Saver(tmp_path) as saver:
        cache(tmp_path)
        with pytest.raises(DamagedCheckpointError, match=r"'model/big'.* not those") as caught:
            await saver.restore(1)
        assert caught.value.path == str(file)
        assert caught.value.step == 1
        cache(tmp_path)
        with pytest.raises(DamagedCheckpointError, match=r"'model/big'.* not those.*overwritten"):
            await saver.restore(1, into=live)
        cache(tmp_path)
        with pytest.raises(DamagedCheckpointError, match="'model/big'"):
            await saver.verify(1)
        # What was not asked for is not judged.
        await saver.restore(only="optimizer/**")


async def test_verify_looks_at_every_part_of_every_file(tmp_path: Path) -> None:
    await save(tmp_path, large())
    places = {"the header": (file_of(tmp_path, MODEL), 9)}
    for path in ("model/a", "model/big", "model/c", "model/mid", "model/z", "optimizer/m", "optimizer/v"):
        file, offset, size = place_of(tmp_path, path)
        places[f"'{path}'"] = file, offset + size - 1
    async with Saver(tmp_path) as saver:
        for what, (file, at) in places.items():
            flip(file, at)
            with pytest.raises(DamagedCheckpointError, match=what) as caught:
                await saver.verify(1)
            assert caught.value.path == str(file)
            flip(file, at)
        result = await saver.verify(1)
    assert result.files == DATA
    assert result.bytes == sum(file_of(tmp_path, name).stat().st_size for name in DATA)


async def test_of_several_damaged_tensors_the_first_one_in_the_files_is_named(tmp_path: Path) -> None:
    await save(tmp_path, large())
    for path in ("model/c", "model/mid", "optimizer/m", "model/big"):
        file, offset, _ = place_of(tmp_path, path)
        flip(file, offset + 3)
    async with Saver(tmp_path) as saver:
        for _ in range(5):
            with pytest.raises(DamagedCheckpointError, match="'model/big'"):
                await saver.restore()
            with pytest.raises(DamagedCheckpointError, match="'model/big'"):
                await saver.verify(1)


async def test_only_what_was_written_to_is_said_to_be(memory: MemoryStore) -> None:
    """A fallback that lacks an array is refused only if that array may really have been overwritten."""
    newer = {name: {"w": np.full(2 * WHOLE, 2, np.uint8)} for name in "abc"}
    older = {name: {"w": np.ones(2 * WHOLE, np.uint8)} for name in "ab"}
    live = {name: {"w": np.zeros(2 * WHOLE, np.uint8)} for name in "abc"}
    async with Saver(memory) as saver:
        await saver.save(older, 1)
        await saver.save(newer, 2)
        seen: list[int] = []

        def broken(op: str, step: int | None, name: str | None) -> OSError | None:
            if op == "read_ranges" and step == 2 and str(name).startswith("b-"):
                seen.append(step)
                return OSError(errno.EIO, "Input/output error")
            return None

        memory.faults = broken
        restored = await saver.restore(into=live, strict=False)
    assert seen == [2]
    assert restored.step == 1
    assert_same({**older, "c": {"w": np.zeros(2 * WHOLE, np.uint8)}}, live)


async def test_small_arrays_that_were_written_to_are_said_to_be(tmp_path: Path) -> None:
    await save(tmp_path, {"a": {"w": np.ones(3)}, "b": {"w": np.ones(3)}})
    live = {"a": {"w": np.zeros(3)}, "b": {"w": np.zeros(3)}}
    file, offset, _ = place_of(tmp_path, "b/w")
    flip(file, offset)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="overwritten"):
            await saver.restore(into=live)
    assert live["a"]["w"].tolist() == [1.0, 1.0, 1.0]
    assert live["b"]["w"].tolist() == [0.0, 0.0, 0.0]


async def test_a_file_cut_short_while_it_is_read_is_damage(
    tmp_path: Path, seam: Seam, cache: Callable[[Path], None]
) -> None:
    await save(tmp_path, large())

    def cut(name: str, _offset: int) -> None:
        if name == MODEL:
            os.truncate(file_of(tmp_path, MODEL), 6 * WHOLE)

    cache(tmp_path)
    seam.before = cut
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=f"{MODEL}: it (ends|has)") as caught:
            await saver.restore(1)
        assert caught.value.path == str(file_of(tmp_path, MODEL))


@pytest.mark.parametrize("nth", [1, 3])
async def test_a_read_that_fails_is_damage_and_nothing_goes_on_after_it(
    tmp_path: Path, seam: Seam, cache: Callable[[Path], None], nth: int
) -> None:
    await save(tmp_path, large())
    count = 0

    def broken(name: str, _offset: int) -> None:
        nonlocal count
        count += name == MODEL
        if name == MODEL and count == nth:
            raise OSError(errno.EIO, "Input/output error")

    cache(tmp_path)
    seam.before = broken
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=f"{MODEL}: Input/output error") as caught:
            await saver.restore(1)
        assert caught.value.path == str(file_of(tmp_path, MODEL))
        seen = len(seam.reads)
        await asyncio.sleep(0)
        assert len(seam.reads) == seen


@pytest.mark.parametrize("what", ["restore", "verify"])
async def test_a_cancelled_reader_leaves_no_thread_behind(
    tmp_path: Path, seam: Seam, cache: Callable[[Path], None], what: str
) -> None:
    await save(tmp_path, {"model": {"big": np.ones(64 * WHOLE, np.uint8), "b": np.ones(3)}})
    reached, go = threading.Event(), threading.Event()
    reading = 0

    def hold(name: str, _offset: int) -> None:
        nonlocal reading
        if name in DATA:
            reading += 1
            reached.set()
            assert go.wait(30)
            reading -= 1

    cache(tmp_path)
    seam.before = hold
    async with Saver(tmp_path) as saver:
        task = asyncio.create_task(saver.restore() if what == "restore" else saver.verify(1))
        async with asyncio.timeout(30):
            while not reached.is_set():
                await asyncio.sleep(0)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done(), "its threads are still reading"
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reading == 0
        seen = sum(size for _, _, size in seam.data())
        assert seen < 48 * WHOLE, "it did not read on to the end"
        assert await saver._store.pinned() == set()
    assert sum(size for _, _, size in seam.data()) == seen


async def test_a_manifest_that_promises_more_than_there_is_takes_no_memory(
    tmp_path: Path, seam: Seam, monkeypatch: pytest.MonkeyPatch
) -> None:
    from async_ckpt.saver import targets

    from .test_saver_damage import rewrite

    await save(tmp_path, {"model": {"w": np.ones(1 << 18)}})

    def boast(body: Any) -> None:
        (tensor,), (file,) = body["tensors"], body["files"]
        tensor["shape"], tensor["bytes"] = [1 << 47], 1 << 50
        file["bytes"] = file["header_bytes"] + (1 << 50)

    rewrite(tmp_path, 1, boast)
    asked: list[int] = []
    monkeypatch.setattr(targets, "fresh_row", asked.append)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="instead of"):
            await saver.restore()
        with pytest.raises(DamagedCheckpointError, match="instead of"):
            await saver.verify(1)
    assert asked == []
    assert seam.data() == []


async def test_arrays_that_share_memory_are_no_damage_and_the_last_one_in_the_files_wins(
    tmp_path: Path, cache: Callable[[Path], None]
) -> None:
    sizes = {"a": 9 * WHOLE, "b": 9 * WHOLE, "c": 7, "d": 7, "e": 3 * WHOLE}
    saved = {name: np.full(size, ord(name), np.uint8) for name, size in sizes.items()}
    await save(tmp_path, {"model": saved})
    tied, small = np.zeros(9 * WHOLE, np.uint8), np.zeros(7, np.uint8)
    live = {"a": tied, "b": tied, "c": small, "d": small, "e": tied[2 * WHOLE : 5 * WHOLE]}
    async with Saver(tmp_path) as saver:
        for _ in range(3):
            cache(tmp_path)
            await saver.restore(into={"model": live})
            assert set(small.tolist()) == {ord("d")}
            assert set(tied[2 * WHOLE : 5 * WHOLE].tolist()) == {ord("e")}
            assert set(tied[: 2 * WHOLE].tolist()) == set(tied[5 * WHOLE :].tolist()) == {ord("b")}
            tied[:] = 0
