"""How a checkpoint is read: what of it, to where, by whom, and what is said when it is not what was saved."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.saver import Saver
from async_ckpt.storage import posix
from async_ckpt.storage.ranges import WHOLE

from .conftest import assert_same

MODEL = "model-00001-of-00001.safetensors"
PAGE = 4096

Read = tuple[str, int, int]


class Seam:
    """Notes what is read from which file; may be told to hold reads, or to call something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[Read] = []
        self.addresses: list[int] = []
        self.threads: set[int] = set()
        self.before: Callable[[str, int], None] = lambda _name, _offset: None
        self._real = posix.preadv
        monkeypatch.setattr(posix, "preadv", self)

    def __call__(self, fd: int, target: memoryview, offset: int) -> int:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        self.before(name, offset)
        count = self._real(fd, target, offset)
        self.reads.append((name, offset, len(target)))
        self.addresses.append(int(np.frombuffer(target, np.uint8).ctypes.data))
        self.threads.add(threading.get_ident())
        return count

    def of(self, *names: str) -> list[Read]:
        return [read for read in self.reads if read[0] in names]


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


def flip(file: Path, at: int) -> None:
    fd = os.open(file, os.O_RDWR)
    byte = os.pread(fd, 1, at)[0]
    os.pwrite(fd, bytes([byte ^ 1]), at)
    os.close(fd)


def start_of(directory: Path, name: str) -> int:
    return (directory / "step-00000001" / name).stat().st_size


def large(seed: int = 0) -> dict[str, Any]:
    """A tensor of several pieces, one of a single piece, and small ones before and behind them."""
    draw = np.random.default_rng(seed).integers
    return {
        "model": {
            "a": draw(0, 256, 100, np.uint8),
            "big": draw(0, 256, 11 * WHOLE + 12_345, np.uint8),
            "c": draw(0, 256, 1_001, np.uint8),
            "mid": draw(0, 256, WHOLE + 77, np.uint8),
            "z": draw(0, 256, 5, np.uint8),
        },
        "optimizer": {"m": draw(0, 256, 2 * WHOLE, np.uint8), "v": draw(0, 256, 9, np.uint8)},
    }


async def save(directory: Path, state: Any) -> Path:
    async with Saver(directory) as saver:
        await saver.save(state, 1)
    return directory / "step-00000001"


@pytest.fixture(params=["warm", "cold"])
def cache(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    return warm if request.param == "warm" else cold


def zeros(state: Any) -> Any:
    return {
        group: {name: np.zeros_like(array) for name, array in part.items()} for group, part in state.items()
    }


@pytest.mark.asyncio
async def test_every_byte_lands_where_it_belongs(tmp_path: Path, cache: Callable[[Path], None]) -> None:
    await save(tmp_path, large())
    live = zeros(large())
    arrays = [array for part in live.values() for array in part.values()]
    async with Saver(tmp_path) as saver:
        cache(tmp_path)
        assert_same(large(), (await saver.restore()).state)
        cache(tmp_path)
        await saver.restore(into=live)
        cache(tmp_path)
        await saver.verify(1)
    assert_same(large(), live)
    assert [id(array) for part in live.values() for array in part.values()] == [id(a) for a in arrays]


@pytest.mark.asyncio
async def test_a_large_tensor_in_the_page_cache_is_read_straight_into_its_array(
    tmp_path: Path, seam: Seam
) -> None:
    await save(tmp_path, large())
    live = zeros(large())
    big = live["model"]["big"]
    warm(tmp_path)
    async with Saver(tmp_path) as saver:
        await saver.restore(into=live)
    inside = [a - big.ctypes.data for a in seam.addresses if 0 <= a - big.ctypes.data < big.nbytes]
    assert sorted(inside) == list(range(0, big.nbytes, WHOLE))
