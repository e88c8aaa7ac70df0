"""Where a state waits for the disk: images for what may change, a window for the rest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.state.dtypes import PAGE
from async_ckpt.state.layout import Layout, TensorSpec, plan
from async_ckpt.state.placing import LEAST_WINDOW, Placing, place
from async_ckpt.state.streaming import StreamedFile
from async_ckpt.state.tree import flatten
from tests.state.roundtrip import copier_of, staged

MIB = 2**20


def layout_of(*sizes: int, groups: int = 2) -> Layout:
    specs = [
        TensorSpec(f"g{index % groups}", f"t{index}", "U8", (size,), size) for index, size in enumerate(sizes)
    ]
    return plan(specs)


def spans(layout: Layout, placing: Placing) -> list[tuple[int, int]]:
    """Every stretch of memory that is used for something."""
    found = [
        (at, at + file.size) for at, file in zip(placing.images, layout.files, strict=True) if at is not None
    ]
    sizes = {placed.index: placed.nbytes for file in layout.files for placed in file.tensors}
    found += [(at, at + sizes[index]) for index, at in placing.stash.items()]
    if placing.window is not None:
        found.append((placing.window.start, placing.window.start + placing.window.nbytes))
    return sorted(found)


@given(
    sizes=st.lists(st.integers(0, 3 * MIB), min_size=1, max_size=12),
    constants=st.lists(st.booleans(), min_size=12, max_size=12),
    limit=st.none() | st.integers(LEAST_WINDOW, 20 * MIB),
    groups=st.integers(1, 5),
)
def test_nothing_overlaps_and_the_limit_holds(
    sizes: list[int], constants: list[bool], limit: int | None, groups: int
) -> None:
    layout = layout_of(*sizes, groups=groups)
    placing = place(layout, constants, limit)
    taken = spans(layout, placing)
    assert all(end <= start for (_, end), (start, _) in pairwise(taken))
    assert all(0 <= start <= end <= placing.nbytes for start, end in taken)
    assert limit is None or placing.nbytes <= limit
    assert all(at is None or at % PAGE == 0 for at in placing.images)
    streamed = [file for file, at in zip(layout.files, placing.images, strict=True) if at is None]
    assert (placing.window is not None) == bool(streamed)
    if placing.window is not None:
        assert placing.window.start % PAGE == placing.window.slot % PAGE == 0
        assert placing.window.slot > 0
    if not placing.live:
        changing = {
            placed.index for file in streamed for placed in file.tensors if not constants[placed.index]
        }
        assert set(placing.stash) == changing


def test_a_state_that_may_change_lies_in_memory_file_by_file() -> None:
    layout = layout_of(5 * MIB, 3 * MIB)
    placing = place(layout, [False, False])
    assert placing.images == tuple(file.arena_offset for file in layout.files)
    assert placing.window is None
    assert not placing.live
    assert placing.nbytes == layout.total


def test_what_never_changes_is_not_copied_as_a_whole() -> None:
    layout = layout_of(500 * MIB, 300 * MIB)
    placing = place(layout, [True, True])
    assert placing.images == (None, None)
    assert placing.nbytes < 100 * MIB
    assert not placing.live


def test_what_may_change_beside_what_does_not_is_kept_apart() -> None:
    layout = layout_of(500 * MIB, 10 * MIB, groups=1)
    placing = place(layout, [True, False])
    assert placing.images == (None,)
    assert list(placing.stash) == [1]
    assert not placing.live


def test_a_few_bytes_that_never_change_are_copied_with_the_rest() -> None:
    layout = layout_of(100, 5 * MIB, groups=1)
    placing = place(layout, [True, False])
    assert placing.images == (0,)
    assert placing.window is None


def test_a_state_beyond_the_limit_goes_through_a_window_of_that_size() -> None:
    layout = layout_of(500 * MIB, 300 * MIB)
    placing = place(layout, [False, False], 64 * MIB)
    assert placing.live
    assert placing.images == (None, None)
    assert placing.window is not None
    assert placing.nbytes == placing.window.nbytes <= 64 * MIB


def test_what_never_changes_is_not_living_under_a_limit_either() -> None:
    placing = place(layout_of(500 * MIB, 300 * MIB), [True, True], 8 * MIB)
    assert not placing.live
    assert placing.nbytes <= 8 * MIB


# -- files in the making ------------------------------------------------------------------------------

STATE: dict[str, Any] = {
    "model": {
        "w": np.arange(30_000, dtype="<f4").reshape(300, 100),
        "t": np.arange(30_000, dtype="<i2").reshape(300, 100).T,
        "be": np.arange(9000, dtype=">f8")[::2],
        "c": np.arange(5000) * 1j,
        **{f"s{index}": np.full(index, index, "<u2") for index in range(300)},
        "none": np.zeros((0, 3)),
    },
}


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(2) as made:
        yield made


def streamed(pool: ThreadPoolExecutor, slot: int, made: Callable[[], None] = lambda: None) -> Any:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    slots = np.zeros(slot, np.uint8), np.zeros(slot, np.uint8)
    return StreamedFile(layout.files[0], copier_of(flat), slots, pool, made), bytes(memory), layout.files[0]


@pytest.mark.parametrize("slot", [PAGE, 3 * PAGE, 2**20])
def test_the_pieces_are_the_file_and_so_are_the_digests(pool: ThreadPoolExecutor, slot: int) -> None:
    ends: list[str] = []
    stream, expected, file = streamed(pool, slot, lambda: ends.append("made"))
    pieces = [bytes(piece) for piece in stream]
    assert b"".join(pieces) == expected[: file.size]
    assert all(len(piece) == slot for piece in pieces[:-1])
    assert stream.nbytes == file.size
    assert ends == ["made"]
    found = stream.digests()
    assert found.header == xxhash.xxh3_128_hexdigest(file.header)
    for placed, digest in zip(file.tensors, found.tensors, strict=True):
        part = expected[placed.offset_in_file : placed.offset_in_file + placed.nbytes]
        assert digest == xxhash.xxh3_128_hexdigest(part)


def test_who_stops_early_leaves_no_thread_at_work_in_the_slots(pool: ThreadPoolExecutor) -> None:
    stream, _, _ = streamed(pool, PAGE)
    pieces = iter(stream)
    next(pieces)
    pieces.close()
    # Both threads of the pool are free again: two calls that need each other come together.
    barrier = pool.submit(lambda: pool.submit(lambda: "free").result(30))
    assert barrier.result(30) == "free"


def test_an_array_that_is_not_what_it_was_ends_the_pieces(pool: ThreadPoolExecutor) -> None:
    array = np.zeros((4, 3))
    flat = flatten({"a": array})
    layout = plan(flat.specs)
    array.resize((2, 3), refcheck=False)
    slots = np.zeros(PAGE, np.uint8), np.zeros(PAGE, np.uint8)
    stream = StreamedFile(layout.files[0], copier_of(flat), slots, pool)
    with pytest.raises(ValueError, match="a changed its shape"):
        list(stream)
