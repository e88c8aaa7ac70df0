"""What is staged is the file, byte for byte, and can be looked at without copying it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from async_ckpt.state import copying, staging
from async_ckpt.state.arena import Arena
from async_ckpt.state.digesting import FileDigester
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.staging import digest_image
from async_ckpt.state.tree import Flat, flatten
from async_ckpt.system.threads import Worker
from tests.state.roundtrip import copier_of, exact, imaged, stage, staged, view
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
    monkeypatch.setattr(staging, "DIGESTED", 64)
    monkeypatch.setattr(copying, "CHUNK", 64)
    monkeypatch.setattr(copying, "_TOGETHER", 2)


async def stage_across(flat: Flat, layout: Layout, memory: Any, worker: Worker, threads: int) -> None:
    await staging.stage(layout, imaged(layout), copier_of(flat), memory, worker=worker, threads=threads)


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
    stage(flat, layout, one)
    stage(flat, layout, other)
    for file in layout.files:
        part = slice(file.arena_offset, file.arena_offset + file.size)
        assert one[part] == other[part]


@pytest.mark.asyncio
async def test_old_bytes_never_reach_the_page_behind_a_file() -> None:
    worker = Worker("test-stage")
    flat = flatten(STATE)
    layout = plan(flat.specs)
    one, other = bytearray(b"\xff" * layout.total), bytearray(layout.total)
    await stage_across(flat, layout, one, worker, 1)
    await stage_across(flat, layout, other, worker, 1)
    assert one == other
    worker.close()


@pytest.mark.usefixtures("small_chunks")
def test_chunks_make_no_difference() -> None:
    flat = flatten(STATE)
    in_chunks = staged(flat)[1]
    copying.CHUNK = 2**24
    assert in_chunks == staged(flat)[1]


@pytest.mark.usefixtures("small_chunks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 40))
def test_a_stretch_of_a_file_is_the_same_as_that_part_of_the_whole(cut: int) -> None:
    strided = {"col": np.asfortranarray(BIG), "rev": np.arange(1000)[::-1], "c": (np.arange(40) * 1j)[::2]}
    flat = flatten({"model": {**STATE["model"], **strided}})
    layout, memory = staged(flat)
    file, copier = layout.files[0], copier_of(flat)
    for start in range(0, file.size, cut * 8):
        stop = min(start + cut * 8, file.size)
        target = np.zeros(stop - start, np.uint8)
        copier.copy(file, start, stop, target)
        assert target.tobytes() == memory[start:stop]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.asyncio
async def test_threads_make_no_difference(threads: int) -> None:
    worker = Worker("test-stage", threads=threads)
    flat = flatten({**STATE, "many": [np.full(i, i) for i in range(50)], "col": np.asfortranarray(BIG)})
    layout, expected = staged(flat)
    memory = bytearray(b"\xff" * layout.total)
    await stage_across(flat, layout, memory, worker, threads)
    for file in layout.files:
        part = slice(file.arena_offset, file.arena_offset + file.size)
        assert memory[part] == expected[part]
    worker.close()


@pytest.mark.parametrize("chunk", [2**24, 4096])
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
        await stage_across(flat, layout, bytearray(layout.total), worker, 2)
    with pytest.raises(ValueError, match="a changed its shape to"):
        stage(flat, layout, bytearray(layout.total))
    worker.close()


@pytest.mark.asyncio
async def test_cancelling_lets_the_copy_end() -> None:
    worker = Worker("test-stage", threads=2)
    flat = flatten({"a": [np.full(2**16, i) for i in range(20)]})
    layout, expected = staged(flat)
    memory = bytearray(layout.total)
    task = asyncio.ensure_future(stage_across(flat, layout, memory, worker, 2))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory == expected
    worker.close()


@pytest.mark.asyncio
async def test_memory_that_does_not_fit_is_refused() -> None:
    worker = Worker("test-stage")
    flat = flatten(STATE)
    layout = plan(flat.specs)
    with pytest.raises(ValueError, match="bytes of memory for"):
        await stage_across(flat, layout, bytearray(layout.total - 1), worker, 1)
    worker.close()


def test_an_empty_state_is_staged() -> None:
    flat = flatten({})
    layout, memory = staged(flat)
    assert layout.total == len(memory) == 0
    assert view(flat, layout, memoryview(memory)) == {}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("cut", [1, 7, 4096, 2**20])
def test_digests_are_those_of_the_staged_bytes(cut: int) -> None:
    flat = flatten(STATE)
    layout, memory = staged(flat)
    row = staging.as_row(memory)
    for file in layout.files:
        image = row[file.arena_offset : file.arena_offset + file.size]
        found = digest_image(file, image, stopped=lambda: False)
        assert found is not None
        assert found.header == xxhash.xxh3_128_hexdigest(file.header)
        for placed, digest in zip(file.tensors, found.tensors, strict=True):
            part = image[placed.offset_in_file : placed.offset_in_file + placed.nbytes]
            assert digest == xxhash.xxh3_128_hexdigest(part.tobytes())
        in_pieces = FileDigester(file)
        for start in range(0, file.size, cut):
            in_pieces.feed(memoryview(image.data)[start : start + cut])
        assert in_pieces.result() == found


def test_a_tensor_is_digested_in_one_go_wherever_copies_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each cut through a tensor makes the digesting thread wait for the interpreter two times more.
    monkeypatch.setattr(staging, "CHUNK", 64)
    layout, memory = staged(flatten(STATE))
    file = layout.files[0]
    image = staging.as_row(memory)[: file.size]
    fed: list[int] = []
    feed = FileDigester.feed

    def note(self: FileDigester, piece: memoryview) -> None:
        fed.append(len(piece))
        feed(self, piece)

    monkeypatch.setattr(FileDigester, "feed", note)
    assert digest_image(file, image, stopped=lambda: False) is not None
    assert fed == [file.size]


@pytest.mark.usefixtures("small_chunks")
def test_digesting_stops_when_asked() -> None:
    layout, memory = staged(flatten(STATE))
    answers = iter([False, False, True])
    file = layout.files[0]
    image = staging.as_row(memory)[: file.size]
    assert digest_image(file, image, stopped=lambda: next(answers)) is None


@given(trees)
def test_a_view_shows_what_was_staged(tree: Any) -> None:
    flat = flatten(tree)
    layout, memory = staged(flat)
    assert exact(view(flat, layout, memory)) == exact(tree)


def test_a_view_is_read_only_and_copies_nothing() -> None:
    arena = Arena()
    flat = flatten(STATE)
    layout = plan(flat.specs)
    memory = arena.reserve(layout.total)
    stage(flat, layout, memory)
    del memory
    tree = view(flat, layout, arena.lend())
    assert np.shares_memory(tree["model"]["w"], arena.lend())
    for array in (tree["model"]["w"], tree["model"]["c"], tree["opt"][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    kept = tree["opt"][0][3:]
    del tree, array
    assert arena.lent()
    stage(flatten({**STATE, "opt": [np.zeros(5000, "<u2")]}), layout, arena.reserve(layout.total))
    assert (kept == 7).all()
    del kept
    assert not arena.lent()
