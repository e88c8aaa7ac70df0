"""Arena memory is aligned and reused, and never handed out while somebody can still see it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from async_ckpt.state.arena import Arena, prefault
from async_ckpt.state.dtypes import PAGE


def address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def test_memory_is_page_aligned_writable_and_of_the_size_asked_for() -> None:
    arena = Arena()
    memory = arena.reserve(PAGE + 1)
    assert len(memory) == PAGE + 1
    assert arena.nbytes == 2 * PAGE
    assert address(memory) % PAGE == 0
    memory[-1] = 7
    assert memory.nbytes == PAGE + 1


def test_memory_nobody_holds_is_used_again_when_it_is_large_enough() -> None:
    arena = Arena()
    first = arena.reserve(10 * PAGE)
    first[5] = 42
    at = address(first)
    del first
    for size in (10 * PAGE, PAGE, 0):
        again = arena.reserve(size)
        assert arena.nbytes == 10 * PAGE
        if size:
            assert address(again) == at
            assert again[5] == 42
        del again
    assert len(arena.reserve(11 * PAGE)) == 11 * PAGE
    assert arena.nbytes == 11 * PAGE


@pytest.mark.parametrize(
    "keep",
    [
        lambda memory: memory,
        lambda memory: memory[8:16].toreadonly(),
        lambda memory: np.frombuffer(memory[64:128], "<f8").reshape(2, 4)[1],
        lambda memory: iter(memory[:3]),
    ],
    ids=["memory", "slice", "array", "iterator"],
)
def test_memory_somebody_holds_is_never_handed_out_again(keep: Callable[[memoryview], Any]) -> None:
    arena = Arena()
    kept = keep(arena.reserve(PAGE))
    assert arena.lent()
    fresh = arena.reserve(PAGE)
    fresh[:] = b"\xff" * PAGE
    if isinstance(kept, np.ndarray):
        assert not kept.any()
    else:
        assert not any(kept)
    del kept, fresh
    assert not arena.lent()


def test_a_view_of_the_root_counts_as_lent_for_as_long_as_it_lives() -> None:
    arena = Arena()
    assert not arena.lent()
    with pytest.raises(ValueError, match="empty"):
        arena.lend()
    arena.reserve(PAGE)
    assert not arena.lent()
    root = arena.lend()
    assert root is arena.lend()
    view = root[8:16].view("<f4").reshape(1, 2)
    view.flags.writeable = False
    del root
    assert arena.lent()
    piece = view[0]
    del view
    gc.collect()
    assert arena.lent()
    del piece
    assert not arena.lent()


def test_closing_leaves_what_is_held_valid() -> None:
    arena = Arena()
    memory = arena.reserve(PAGE)
    memory[0] = 9
    arena.close()
    arena.close()
    assert memory[0] == 9
    assert arena.nbytes == 0
    assert len(arena.reserve(5)) == 5


def test_prefault_touches_every_page() -> None:
    memory = Arena().reserve(3 * PAGE)
    memory[:] = b"\xff" * (3 * PAGE)
    prefault(memory)
    assert [i for i, byte in enumerate(memory) if byte == 0] == [0, PAGE, 2 * PAGE]
    prefault(memory[:0])
