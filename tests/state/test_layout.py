"""Every byte of every file has one place: no hole, no overlap, aligned, readable by anybody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.state.dtypes import ITEMSIZE, PAGE, checked_nbytes
from async_ckpt.state.layout import Layout, TensorSpec, plan
from async_ckpt.storage.names import is_file_name
from async_ckpt.storage.safetensors import DTYPE_BITS, decode_header


def spec(group: str, name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(group, name, dtype, shape, checked_nbytes(dtype, shape))


SPECS = [
    spec("model", "bias", "U8", 3),
    spec("model", "weight", "F32", 2, 3),
    spec("optimizer", "step", "I64"),
    spec("model", "half", "BF16", 5),
    spec("model", "nothing", "F64", 0, 4),
]


def test_the_plan_of_a_small_state_is_this_one() -> None:
    layout = plan(SPECS)
    assert [(f.name, f.size, f.arena_offset, f.header_bytes) for f in layout.files] == [
        ("model-00001-of-00001.safetensors", 4133, 0, 4096),
        ("optimizer-00001-of-00001.safetensors", 4104, 8192, 4096),
    ]
    assert layout.files[0].tensors == ((4, 4096, 0), (1, 4096, 24), (3, 4120, 10), (0, 4130, 3))
    assert layout.offsets == (4130, 4096, 12288, 4120, 4096)
    assert layout.total == 16384
    assert layout.files[0].header[8:].rstrip(b" ") == (
        b'{"nothing":{"dtype":"F64","shape":[0,4],"data_offsets":[0,0]},'
        b'"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"half":{"dtype":"BF16","shape":[5],"data_offsets":[24,34]},'
        b'"bias":{"dtype":"U8","shape":[3],"data_offsets":[34,37]}}'
    )


specs_of = st.lists(
    st.tuples(
        st.sampled_from(["model", "opt", "state"]),
        st.sampled_from(sorted(ITEMSIZE)),
        st.lists(st.integers(0, 9), max_size=3),
    ),
    max_size=25,
).map(lambda found: [spec(group, f"t{i}", dtype, *shape) for i, (group, dtype, shape) in enumerate(found)])


@given(specs_of, st.none() | st.integers(1, 3000), st.sampled_from([PAGE, 512, 65536]))
def test_no_hole_no_overlap_all_aligned(specs: list[TensorSpec], limit: int | None, align: int) -> None:
    layout = plan(specs, max_shard_bytes=limit, align=align)
    end = 0
    seen: list[int] = []
    for file in layout.files:
        assert is_file_name(file.name)
        assert file.arena_offset == end
        assert file.arena_offset % align == file.header_bytes % align == 0
        at = file.header_bytes
        for index, offset, nbytes in file.tensors:
            assert (offset, nbytes) == (at, specs[index].nbytes)
            assert offset % ITEMSIZE[specs[index].dtype] == 0
            assert layout.offsets[index] == file.arena_offset + offset
            at += nbytes
            seen.append(index)
        assert at == file.size
        assert limit is None or len(file.tensors) == 1 or file.size - file.header_bytes <= limit
        header = decode_header(file.header, file_bytes=file.size)
        assert [(t.name, t.offset) for t in header.tensors if t.bytes] == [
            (specs[i].name, offset) for i, offset, nbytes in file.tensors if nbytes
        ]
        end = -(-(end + file.size) // align) * align
    assert layout.total == end
    assert sorted(seen) == list(range(len(specs)))
    assert len({file.name for file in layout.files}) == len(layout.files)


def test_shards_are_counted_in_their_names() -> None:
    specs = [spec("m", f"t{i}", "U8", 10) for i in range(5)] + [spec("m", "large", "U8", 100)]
    layout = plan(specs, max_shard_bytes=20)
    assert [file.name for file in layout.files] == [f"m-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert [len(file.tensors) for file in layout.files] == [2, 2, 1, 1]


def test_an_empty_state_has_no_files_and_a_group_of_empty_tensors_has_one() -> None:
    assert plan([]) == Layout((), 0, ())
    layout = plan([spec("m", "a", "F32", 0)])
    assert [(file.size, file.header_bytes) for file in layout.files] == [(PAGE, PAGE)]
    assert layout.total == PAGE


@pytest.mark.parametrize(
    "bad",
    [
        [TensorSpec("m", "a", "F32", (2,), 4)],
        [TensorSpec("m", "a", "F99", (2,), 8)],
        [TensorSpec("m", "a", "F32", (-1,), -4)],
        [TensorSpec("m", "", "F32", (), 4)],
        [TensorSpec("m", "__metadata__", "F32", (), 4)],
        [spec("m", "a", "U8"), spec("m", "a", "I8")],
    ],
)
def test_specs_that_contradict_themselves_are_refused(bad: list[TensorSpec]) -> None:
    with pytest.raises(ValueError, match=r"F99|negative|bytes do not make|a tensor's name"):
        plan(bad)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_shard_bytes"):
        plan(SPECS, max_shard_bytes=0)


def test_sizes_do_not_wrap() -> None:
    assert checked_nbytes("F64", (2**62, 8)) == 2**68
    assert {name: size * 8 for name, size in ITEMSIZE.items()}.items() <= DTYPE_BITS.items()
    assert np.dtype("f4").itemsize == ITEMSIZE["F32"]
