"""What is staged is the file, byte for byte, and can be looked at without copying it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from safetensors import safe_open

from async_ckpt.state import staging
from async_ckpt.state.arena import Arena
from async_ckpt.state.layout import plan
from async_ckpt.state.staging import digests, stage, stage_across, view
from async_ckpt.state.tree import flatten
from async_ckpt.system.threads import Worker
from tests.state.roundtrip import exact, staged
from tests.state.test_tree import trees

BIG = np.arange(24.0, dtype=">f8").reshape(2, 3, 4)
STATE: dict[Any, Any] = {
    "model": {
        "w": np.arange(12, dtype="<f4").reshape(3, 4),
        "t": np.arange(12, dtype="<i2").reshape(3, 4).T,
        "odd": np.arange(7, dtype="u1")[::2],
        "be": BIG[:, ::-1],
        "c": (np.arange(4) * 1j).reshape(2, 2),
        "none": np.zeros((0, 3)),
        "one": np.array(5.5),
        "flag": np.array([True, False]),
    },
    "text": "é" * 3000,
    "opt": [np.full(5000, 7, "<u2")],
}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "CHUNK", 64)
    monkeypatch.setattr(staging, "_BATCH", 2)


def test_every_tensor_lies_at_its_place_in_c_order_and_little_endian() -> None:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    for leaf, at in zip(flat.leaves, layout.offsets, strict=True):
        value = leaf.value.encode() if isinstance(leaf.value, str) else leaf.value
        if isinstance(value, np.ndarray):
            value = value.astype(value.dtype.newbyteorder("<")).tobytes()
        assert bytes(memory[at : at + leaf.spec.nbytes]) == value, leaf.path


def test_another_reader_of_the_format_opens_the_staged_files(tmp_path: Path) -> None:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    for file in layout.files:
        (tmp_path / file.name).write_bytes(memory[file.arena_offset : file.arena_offset + file.size])
    with safe_open(tmp_path / "model-00001-of-00001.safetensors", "np") as opened:
        assert exact(opened.get_tensor("w")) == exact(STATE["model"]["w"])
        assert opened.get_tensor("be").tolist() == BIG[:, ::-1].tolist()
        assert opened.get_tensor("t").tolist() == STATE["model"]["t"].tolist()
        assert opened.get_tensor("none").shape == (0, 3)
        assert opened.get_tensor("one").shape == ()
    with safe_open(tmp_path / "state-00001-of-00001.safetensors", "np") as opened:
        assert opened.get_tensor("text").tobytes().decode() == STATE["text"]


def test_old_bytes_never_reach_a_file() -> None:
    flat = flatten(STATE)
    layout = plan(flat.specs)
    one, other = bytearray(b"\xff" * layout.total), bytearray(layout.total)
    stage(layout, flat.leaves, one)
    stage(layout, flat.leaves, other)
    assert one == other


@pytest.mark.usefixtures("small_chunks")
def test_chunks_make_no_difference() -> None:
    flat = flatten(STATE)
    in_chunks = staged(flat)[1]
    staging.CHUNK = 2**24
    assert in_chunks == staged(flat)[1]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.asyncio
async def test_threads_make_no_difference(threads: int) -> None:
    worker = Worker("test-stage", threads=threads)
    flat = flatten({**STATE, "many": [np.full(i, i) for i in range(50)], "col": np.asfortranarray(BIG)})
    layout, expected = staged(flat)
    memory = bytearray(b"\xff" * layout.total)
    await stage_across(layout, flat.leaves, memory, worker=worker, threads=threads)
    assert memory == expected
    worker.close()


@pytest.mark.parametrize("chunk", [2**24, 8])
@pytest.mark.asyncio
async def test_a_copy_that_fails_is_raised_after_all_threads_have_stopped(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK", chunk)
    worker = Worker("test-stage", threads=2)
    array = np.zeros((4, 3))
    flat = flatten({"a": array, "b": np.zeros(3)})
    layout = plan(flat.specs)
    array.resize((2, 3), refcheck=False)
    with pytest.raises(ValueError, match="a changed its shape to"):
        await stage_across(layout, flat.leaves, bytearray(layout.total), worker=worker, threads=2)
    with pytest.raises(ValueError, match="a changed its shape to"):
        stage(layout, flat.leaves, bytearray(layout.total))
    worker.close()


@pytest.mark.asyncio
async def test_cancelling_lets_the_copy_end() -> None:
    worker = Worker("test-stage", threads=2)
    flat = flatten({"a": [np.full(2**16, i) for i in range(20)]})
    layout, expected = staged(flat)
    memory = bytearray(layout.total)
    task = asyncio.ensure_future(stage_across(layout, flat.leaves, memory, worker=worker, threads=2))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory == expected
    worker.close()


def test_memory_that_does_not_fit_is_refused() -> None:
    flat = flatten(STATE)
    layout = plan(flat.specs)
    for leaves, size in ((flat.leaves, layout.total - 1), (flat.leaves[1:], layout.total)):
        with pytest.raises(ValueError, match="do not fit the layout"):
            stage(layout, leaves, bytearray(size))


def test_an_empty_state_is_staged() -> None:
    flat = flatten({})
    layout, memory = staged(flat)
    assert layout.total == len(memory) == 0
    assert view(flat.structure, layout, flat.specs, memoryview(memory)) == {}
    found: Any = digests(layout, memory)
    assert found == ((), ())


@pytest.mark.usefixtures("small_chunks")
def test_digests_are_those_of_the_staged_bytes() -> None:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    found = digests(layout, memory)
    assert found is not None
    for leaf, at, digest in zip(flat.leaves, layout.offsets, found.tensors, strict=True):
        assert digest == xxhash.xxh3_128_hexdigest(memory[at : at + leaf.spec.nbytes])
    assert found.headers == tuple(xxhash.xxh3_128_hexdigest(file.header) for file in layout.files)


@pytest.mark.usefixtures("small_chunks")
def test_digesting_stops_when_asked() -> None:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    answers = iter([False, False, True])
    assert digests(layout, memory, stopped=lambda: next(answers)) is None


@given(trees)
def test_a_view_shows_what_was_staged(tree: Any) -> None:
    flat = flatten(tree)
    layout, memory = staged(flat)
    assert exact(view(flat.structure, layout, flat.specs, memory)) == exact(tree)


def test_a_view_is_read_only_and_copies_nothing() -> None:
    arena = Arena()
    flat = flatten(STATE)
    layout = plan(flat.specs)
    memory = arena.reserve(layout.total)
    stage(layout, flat.leaves, memory)
    del memory
    tree = view(flat.structure, layout, flat.specs, arena.lend())
    assert np.shares_memory(tree["model"]["w"], arena.lend())
    for array in (tree["model"]["w"], tree["model"]["c"], tree["opt"][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    kept = tree["opt"][0][3:]
    del tree, array
    assert arena.lent()
    stage(layout, flatten({**STATE, "opt": [np.zeros(5000, "<u2")]}).leaves, arena.reserve(layout.total))
    assert (kept == 7).all()
    del kept
    assert not arena.lent()
