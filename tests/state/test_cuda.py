"""Tensors on devices reach the staging memory byte for byte, in few copies, and only when they may.

What decides and what moves bytes is tried with tensors in the host's memory; streams, events and pinned pages
need a GPU, and are skipped without one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from async_ckpt.state import copying, cuda, torch_arrays
from async_ckpt.state.arena import Arena
from async_ckpt.state.cuda import Place, devices, mark, pin, places
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.placing import Placing, place
from async_ckpt.state.torch_arrays import is_tensor, read_part
from async_ckpt.state.tree import Flat, flatten
from async_ckpt.state.validating import changed

torch = pytest.importorskip("torch")

gpu = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="NO GPU HERE: pinned memory, streams and events of CUDA were not tried",
)
gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="NO SECOND GPU HERE: copies from two devices were not tried"
)


def tensors(device: str = "cpu") -> dict[str, Any]:
    base = torch.arange(4800, device=device).reshape(60, 80)
    return {
        "whole": base.float(),
        "transposed": base.double().T,
        "every other": base.int()[::2, 1::3],
        "half": base.to(torch.bfloat16),
        "flags": base % 3 == 0,
        "one": base.float()[5:6, 7:8],
        "scalar": base.double()[3, 4],
        "nothing": base.float()[:0],
        "expanded": base[:, :1].short().expand(60, 7),
        "complex": base.to(torch.complex128) * (1 + 2j),
        "conjugate": (base.to(torch.complex64) * (1 + 2j)).conj(),
        "negative": (base.to(torch.complex128) * (1 + 2j)).conj().imag,
        "parameter": torch.nn.Parameter(base.float() * 2),
        "many": [base[i].float() for i in range(60)],
    }


def planned(flat: Flat, *, streamed: frozenset[str] = frozenset()) -> tuple[Layout, Placing]:
    layout = plan(flat.specs)
    return layout, place(layout, [path in streamed for path in flat.outline.paths])


def staged(flat: Flat, layout: Layout, placing: Placing, skip: Any = frozenset()) -> Any:
    """What the threads stage, one leaf after the other."""
    memory = np.zeros(placing.nbytes, np.uint8)
    copier = copying.Copier(flat.outline.specs, flat.values, flat.outline.paths, skip)
    for at, file in zip(placing.images, layout.files, strict=True):
        if at is not None:
            copier.copy(file, 0, file.size, memory[at : at + file.size])
        for placed in file.tensors:
            if placed.index in placing.stash:
                start = placing.stash[placed.index]
                copier.copy_leaf(placed, memory[start : start + placed.nbytes])
    return memory


@pytest.fixture(params=[(256 * 2**10, 16 * 2**20), (4000, 10_000), (8, 64)], ids=["real", "small", "tiny"])
def _limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    small, together = request.param
    monkeypatch.setattr(cuda, "_SMALL", small)
    monkeypatch.setattr(cuda, "_TOGETHER", together)


# -- what goes where ---------------------------------------------------------------------------------


def test_only_tensors_on_a_device_are_chosen() -> None:
    flat = flatten({"a": torch.zeros(3), "b": np.zeros(3), "c": "x" * 5000})
    layout, placing = planned(flat)
    assert places(layout, placing, flat.values) == {}
    assert devices(flat.values) == frozenset()
    assert [*places(layout, placing, flat.values, is_tensor)] == [flat.outline.paths.index("a")]


def test_a_place_is_where_the_threads_would_have_copied_it() -> None:
    flat = flatten(tensors())
    layout, placing = planned(flat)
    found = places(layout, placing, flat.values, is_tensor)
    expected = staged(flat, layout, placing)
    for index, (start, nbytes, tensor) in found.items():
        assert tensor is flat.values[index]
        stored = np.ascontiguousarray(torch_arrays.as_numpy(tensor, _dtype(flat, index)))
        assert expected[start : start + nbytes].tobytes() == stored.tobytes()
    assert len(found) == len(flat.values) - 1, "the empty one needs no copy"


def _dtype(flat: Flat, index: int) -> Any:
    from async_ckpt.state.arrays import DTYPES

    return DTYPES[flat.outline.specs[index].dtype]


def test_what_is_read_while_it_is_written_has_no_place() -> None:
    flat = flatten({"frozen": np.ones(300_000), "a": torch.arange(9), "b": torch.arange(5.0)})
    layout, placing = planned(flat, streamed=frozenset({"frozen"}))
    found = places(layout, placing, flat.values, is_tensor)
    assert {flat.outline.paths[index]: at.start for index, at in found.items()} == {
        flat.outline.paths[index]: start for index, start in placing.stash.items()
    }
    layout, placing = planned(flatten([torch.zeros(10**6)]), streamed=frozenset({"0"}))
    assert places(layout, placing, [torch.zeros(10**6)], is_tensor) == {}


# -- how it is cut -----------------------------------------------------------------------------------


def runs(*sizes: tuple[int, int]) -> list[tuple[int, list[int]]]:
    chosen = [Place(start, nbytes, nbytes) for start, nbytes in sizes]
    return [*cuda._runs(chosen)]


def test_small_neighbours_go_together_and_a_hole_or_a_large_one_parts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "_SMALL", 10)
    monkeypatch.setattr(cuda, "_TOGETHER", 25)
    assert runs() == []
    assert runs((0, 5), (5, 10), (15, 10)) == [(0, [5, 10, 10])]
    assert runs((0, 5), (5, 10), (15, 10), (25, 1)) == [(0, [5, 10, 10]), (25, [1])]
    assert runs((0, 10), (10, 10), (20, 6)) == [(0, [10, 10]), (20, [6])]
    assert runs((0, 5), (6, 5)) == [(0, [5]), (6, [5])]
    assert runs((0, 5), (5, 11), (16, 5), (21, 5)) == [(0, [5]), (5, [11]), (16, [5, 5])]
    assert runs((0, 100), (100, 200)) == [(0, [100]), (100, [200])]


@pytest.mark.parametrize("shape", [(60, 80), (1, 60, 80), (60, 1, 80)])
def test_a_large_tensor_of_odd_strides_is_put_in_order_a_few_rows_at_a_time(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_TOGETHER", 4000)
    tensor = torch.arange(4800.0).reshape(*shape)[..., ::2]
    rows = [*cuda._rows([tensor])]
    assert torch.cat(rows).numpy().tobytes() == tensor.contiguous().numpy().tobytes()
    if shape[0] > 1:
        assert max(row.numel() for row in rows) <= 4000
        assert len(rows) == 3
    assert len([*cuda._rows([tensor.contiguous()])]) == 1


# -- copying -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_limits")
@pytest.mark.parametrize("pinned", [False, True])
def test_all_kinds_of_tensors_arrive_byte_for_byte(pinned: bool) -> None:
    check_all_kinds("cpu", pinned=pinned)


def check_all_kinds(device: str, *, pinned: bool) -> None:
    state = {"model": tensors(device), "other": np.arange(100)}
    flat = flatten(state)
    layout, placing = planned(flat)
    host = flatten({"model": tensors(), "other": np.arange(100)})
    expected = staged(host, layout, placing)
    arena = Arena()
    memory = np.frombuffer(arena.reserve(placing.nbytes), np.uint8)
    held = pin(memory, device) if pinned else None
    found = places(layout, placing, flat.values, is_tensor)
    memory[:] = staged(flat, layout, placing, skip=found)
    pending = cuda.Copier().start(found.values(), memory, pinned=held is not None)
    pending.wait()
    pending.wait()
    if held is not None:
        held.unpin()
        held.unpin()
    assert memory.tobytes() == expected.tobytes()


def test_the_bytes_of_leaves_that_are_skipped_are_left_alone() -> None:
    flat = flatten({"a": torch.ones(100), "b": torch.ones(300_000), "c": np.ones(5)})
    layout, placing = planned(flat)
    found = places(layout, placing, flat.values, is_tensor)
    memory = staged(flat, layout, placing, skip=found)
    for start, nbytes, _ in found.values():
        assert not memory[start : start + nbytes].any()
    assert memory[: layout.files[0].header_bytes].tobytes() == layout.files[0].header
    streamed = place(layout, [False, True, False])
    memory = staged(flat, layout, streamed, skip=found)
    assert not memory[streamed.stash[0] :][:400].any()
    assert memory[streamed.stash[2] :][:40].any()


def test_without_pinned_memory_nothing_happens_before_it_is_waited_for() -> None:
    memory = np.zeros(16, np.uint8)
    tensor = torch.ones(4)
    pending = cuda.Copier().start([Place(0, 16, tensor)], memory)
    assert not memory.any()
    pending.wait()
    assert memory.view("<f4").tolist() == [1, 1, 1, 1]
    tensor.zero_()
    pending.wait()
    assert memory.any(), "a second wait copies nothing"


def test_nothing_to_copy_is_nothing_to_wait_for() -> None:
    cuda.Copier().start([], np.zeros(0, np.uint8), pinned=True).wait()
    mark(()).wait()


def test_a_copy_that_fails_raises_where_it_is_waited_for() -> None:
    memory = np.zeros(64, np.uint8)
    broken = torch.ones(4, device="meta")
    pending = cuda.Copier().start([Place(0, 16, torch.ones(4)), Place(16, 16, broken)], memory)
    with pytest.raises(RuntimeError):
        pending.wait()
    pending.wait()


def test_memory_is_not_pinned_where_cuda_is_not_in_use() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use here")
    assert pin(np.zeros(4096, np.uint8), "cuda:0") is None
    assert not torch.cuda.is_initialized(), "asking must not start it"


# -- a part at a time, through the window ------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in tensors() if name not in ("many", "nothing")])
def test_a_part_of_a_tensor_is_read_without_the_rest(name: str) -> None:
    tensor = tensors()[name]
    whole = torch_arrays.flat_bytes(tensor).numpy().tobytes()
    for low, high in [(0, len(whole)), (0, len(whole) // 2), (len(whole) // 2, len(whole))]:
        target = np.zeros(high - low, np.uint8)
        read_part(tensor, low, high, target)
        assert target.tobytes() == whole[low:high]


def test_any_stretch_of_a_file_is_made_of_parts_of_tensors_on_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flat = flatten(tensors())
    layout, placing = planned(flat)
    expected = staged(flat, layout, placing)
    monkeypatch.setattr(torch_arrays, "lies_elsewhere", is_tensor)
    copier = copying.Copier(flat.outline.specs, flat.values, flat.outline.paths)
    for file in layout.files:
        for start in range(0, file.size, 4096):
            stop = min(start + 4096, file.size)
            target = np.zeros(stop - start, np.uint8)
            copier.copy(file, start, stop, target)
            assert (
                target.tobytes() == expected[file.arena_offset + start : file.arena_offset + stop].tobytes()
            )


def test_a_tensor_on_a_device_that_changed_its_shape_or_dtype_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_arrays, "lies_elsewhere", is_tensor)
    state = {"a": torch.zeros(10_000), "b": torch.zeros(10_000)}
    flat = flatten(state)
    copier = copying.Copier(flat.outline.specs, flat.values, flat.outline.paths)
    first, second = plan(flat.specs).files[0].tensors
    state["a"].data = torch.zeros(100, 100)
    state["b"].data = torch.zeros(10_000, dtype=torch.int32)
    with pytest.raises(ValueError, match="a changed its shape"):
        copier.copy_leaf(first, np.zeros(40_000, np.uint8))
    with pytest.raises(TypeError, match="b changed its dtype to I32"):
        copier.copy_leaf(second, np.zeros(40_000, np.uint8))


# -- on a GPU ----------------------------------------------------------------------------------------


@pytest.fixture
def pages() -> Iterator[Any]:
    """64 MiB of pinned memory."""
    torch.zeros(1, device="cuda")
    arena = Arena()
    memory = np.frombuffer(arena.reserve(64 * 2**20), np.uint8)
    held = pin(memory, torch.device("cuda:0"))
    assert held is not None
    yield memory
    held.unpin()


@gpu
@pytest.mark.usefixtures("_limits")
@pytest.mark.parametrize("pinned", [False, True])
def test_all_kinds_of_gpu_tensors_arrive_byte_for_byte(pinned: bool) -> None:
    check_all_kinds("cuda:0", pinned=pinned)


@gpu
def test_a_copy_waits_for_the_work_before_the_mark_and_lets_later_work_go_ahead(pages: Any) -> None:
    source = torch.zeros(8 * 2**20, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        source.fill_(7)
        point = mark(devices([source]))
    copier = cuda.Copier()
    pending = copier.start([Place(0, 32 * 2**20, source)], pages, after=point, pinned=True)
    assert not side.query(), "starting must not wait"
    pending.wait()
    assert (pages[: 32 * 2**20].view("<f4") == 7).all()


@gpu
def test_without_a_mark_all_streams_are_waited_for(pages: Any) -> None:
    source = torch.zeros(2**20, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        source.fill_(7)
    cuda.Copier().start([Place(0, 4 * 2**20, source)], pages, pinned=True).wait()
    assert (pages[: 4 * 2**20].view("<f4") == 7).all()


@gpu
def test_a_tensor_that_is_dropped_meanwhile_is_not_overwritten(pages: Any) -> None:
    source = torch.full((8 * 2**20,), 7.0, device="cuda")
    torch.cuda.synchronize()
    copier = cuda.Copier()
    copier.start([Place(0, 4, source[:1])], pages, pinned=True).wait()
    with torch.cuda.stream(copier._streams[source.device]):
        torch.cuda._sleep(200_000_000)
    pending = copier.start([Place(0, 32 * 2**20, source)], pages, pinned=True, after=mark(devices([source])))
    pending._kept = None
    del source
    gc.collect()
    others = [torch.zeros(8 * 2**20, device="cuda") for _ in range(4)]
    pending.wait()
    assert (pages[: 32 * 2**20].view("<f4") == 7).all()
    del others


@gpu
def test_memory_that_cannot_be_pinned_is_said_so_and_harms_no_kernel(pages: Any) -> None:
    assert pin(pages, torch.device("cuda:0")) is None
    assert float((torch.ones(3, device="cuda") * 2).sum()) == 6


@gpu
def test_what_was_unpinned_can_be_pinned_again() -> None:
    torch.zeros(1, device="cuda")
    memory = np.frombuffer(Arena().reserve(2**20), np.uint8)
    for _ in range(2):
        held = pin(memory, torch.device("cuda:0"))
        assert held is not None
        assert torch.from_numpy(memory).is_pinned()
        held.unpin()
        assert not torch.from_numpy(memory).is_pinned()


@gpu
def test_a_changed_gpu_tensor_is_named() -> None:
    state = {"w": torch.zeros(10**6, device="cuda"), "b": torch.zeros(10, device="cuda")}
    flat = flatten(state)
    layout, placing = planned(flat)
    memory = staged(flat, layout, placing)
    copier = copying.Copier(flat.outline.specs, flat.values, flat.outline.paths)
    assert changed(layout, placing, copier, memory) == []
    state["w"][-1] = 1
    assert changed(layout, placing, copier, memory) == [flat.outline.paths.index("w")]


@gpus
def test_tensors_of_two_gpus_arrive(pages: Any) -> None:
    chosen = [Place(i * 400, 400, torch.full((100,), float(i), device=f"cuda:{i % 2}")) for i in range(1000)]
    found = devices([place.tensor for place in chosen])
    assert len(found) == 2
    cuda.Copier().start(chosen, pages, after=mark(found), pinned=True).wait()
    assert (pages[:400_000].view("<f4").reshape(1000, 100) == np.arange(1000)[:, None]).all()
