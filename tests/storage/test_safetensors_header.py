"""The header is the one other tools read, and this reader takes nothing that could mean two things."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_ckpt.errors import CheckpointError, DamagedCheckpointError
from async_ckpt.storage.safetensors import (
    DTYPE_BITS,
    MAX_HEADER,
    HeaderEntry,
    Placed,
    decode_header,
    encode_header,
    tensor_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path


def deserialize(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    from safetensors import deserialize as theirs

    return theirs(data)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]


def entries(*tensors: tuple[str, str, tuple[int, ...]]) -> list[HeaderEntry]:
    made: list[HeaderEntry] = []
    begin = 0
    for name, dtype, shape in tensors:
        end = begin + tensor_bytes(dtype, shape)
        made.append(HeaderEntry(name, dtype, shape, begin, end))
        begin = end
    return made


def header(record: object, padding: bytes = b"") -> bytes:
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return (len(text) + len(padding)).to_bytes(8, "little") + text + padding


ONE = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}


def changed(**changes: Any) -> bytes:
    return header({"a": ONE["a"] | changes})


def test_the_bytes_of_a_header_never_change() -> None:
    assert encode_header(entries(("a", "F32", (2, 3)), ("ä", "U8", ())), align=64, metadata={"k": "v"}) == (
        b"\xb8\x00\x00\x00\x00\x00\x00\x00"
        b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        b'"\xc3\xa4":{"dtype":"U8","shape":[],"data_offsets":[24,25]}}' + b" " * 48
    )


@given(
    st.lists(
        st.tuples(
            st.text(max_size=4),
            st.sampled_from(["F32", "U8", "F64"]),
            st.lists(st.integers(0, 3), max_size=3).map(tuple),
        ),
        unique_by=lambda tensor: tensor[0],
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
def test_the_text_is_that_of_one_table(
    tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    made = entries(*tensors)
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for name, dtype, shape, begin, end in made:
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = msgspec.json.encode(table)
    found = encode_header(made, align=1, metadata=metadata)
    assert found == len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("align", [1, 8, 64, 4096])
def test_the_data_begins_at_a_multiple_of_the_alignment(align: int) -> None:
    for count in (0, 1, 50):
        tensors = entries(*((f"t{i}", "F16", (i,)) for i in range(count)))
        data = encode_header(tensors, align=align)
        assert len(data) % align == 0
        found = decode_header(data)
        assert found.header_bytes == len(data)
        assert [(t.name, t.offset) for t in found.tensors] == [(t.name, len(data) + t.begin) for t in tensors]


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_safetensors_itself_reads_every_dtype_back(dtype: str, tmp_path: Path) -> None:
    tensors = entries(("whole", dtype, (2, 4, 8)), ("empty", dtype, (0, 3)))
    payload = bytes(range(256))[: tensors[0].end]
    payload += bytes(tensors[0].end - len(payload))
    path = tmp_path / "x.safetensors"
    path.write_bytes(encode_header(tensors, metadata={"made by": "us"}) + payload)
    theirs = dict(deserialize(path.read_bytes()))
    assert theirs["whole"]["dtype"] == dtype
    assert list(theirs["whole"]["shape"]) == [2, 4, 8]
    assert bytes(theirs["whole"]["data"]) == payload
    assert list(theirs["empty"]["shape"]) == [0, 3]


def test_real_files_of_safetensors_are_read(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    path = tmp_path / "theirs.safetensors"
    save_file({"b": np.ones((3, 2), np.float32), "a": np.zeros(5, np.int8)}, path, metadata={"x": "y"})
    data = path.read_bytes()
    found = decode_header(data, file_bytes=len(data), path=str(path))
    assert {t.name: (t.dtype, t.shape, t.bytes) for t in found.tensors} == {
        "a": ("I8", (5,), 5),
        "b": ("F32", (3, 2), 24),
    }
    assert found.metadata == {"x": "y"}
    assert found.file_bytes == len(data)


@pytest.mark.parametrize(
    "bad",
    [
        [HeaderEntry("__metadata__", "U8", (1,), 0, 1)],
        [HeaderEntry("a", "U8", (1,), 0, 1), HeaderEntry("a", "U8", (1,), 1, 2)],
        [HeaderEntry("a", "U9", (1,), 0, 1)],
        [HeaderEntry("a", "U8", (-1,), 0, -1)],
        [HeaderEntry("a", "U8", (-1, -2), 0, 2)],
        [HeaderEntry("a", "F4", (3,), 0, 1)],
        [HeaderEntry("a", "U8", (1,), 1, 2)],
        [HeaderEntry("a", "U8", (2,), 0, 1)],
        [HeaderEntry("\ud800", "U8", (1,), 0, 1)],
        [HeaderEntry("x" * MAX_HEADER, "U8", (1,), 0, 1)],
    ],
    ids=lambda bad: f"{bad[-1]!r:.60}",
)
def test_what_nobody_could_read_is_not_written(bad: list[HeaderEntry]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_header(bad)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a short prefix": b"\x02\0\0",
    "no object": header(b""),
    "a list": header(b"[]"),
    "longer than the file": (100).to_bytes(8, "little") + b"{}",
    "2**63": (2**63).to_bytes(8, "little") + b"{}",
    "all ones": b"\xff" * 8 + b"{}",
    "space first": header(b" {}"),
    "newlines last": header({}, b"\n\n"),
    "zeros last": header({}, b"\0\0"),
    "two objects": header(b"{}{}"),
    "duplicate tensor": header(b'{"a":%s,"a":%s}' % ((json.dumps(ONE["a"]).encode(),) * 2)),
    "duplicate field": header(b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
    "NaN": changed(shape=[math.nan]),
    "float": changed(shape=[4.0]),
    "bool": header(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}'),
    "full-width": header('{"a":{"dtype":"U8","shape":[\uff14],"data_offsets":[0,4]}}'.encode()),
    "5000 digits": header(b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,4]}}' % (b"4" * 5000)),
    "negative shape": changed(shape=[-4]),
    "two negatives": changed(shape=[-2, -2]),
    "overflow to zero": changed(shape=[2**32, 2**32], data_offsets=[0, 0]),
    "beyond 2**53": changed(shape=[2**53 + 1], data_offsets=[0, 2**53 + 1]),
    "unknown dtype": changed(dtype="U9"),
    "dtype is a list": changed(dtype=["U8"]),
    "half a byte": changed(dtype="F4", shape=[7]),
    "shape is text": changed(shape="4"),
    "one offset": changed(data_offsets=[0]),
    "three offsets": changed(data_offsets=[0, 4, 4]),
    "negative offset": changed(data_offsets=[-4, 0]),
    "reversed": changed(data_offsets=[4, 0]),
    "too long": changed(data_offsets=[0, 5]),
    "a hole first": changed(data_offsets=[1, 5]),
    "an extra field": changed(extra=1),
    "a missing field": header({"a": {"dtype": "U8", "shape": [4]}}),
    "not an object": header({"a": []}),
    "overlap": header({"a": ONE["a"], "b": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]}}),
    "a hole": header({"a": ONE["a"], "b": {"dtype": "U8", "shape": [2], "data_offsets": [5, 7]}}),
    "metadata is a list": header({"__metadata__": []}),
    "metadata holds a number": header({"__metadata__": {"a": 1}}),
    "deep": header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "lone surrogate": header(b'{"__metadata__":{"a":"\\ud800"}}'),
    "not UTF-8": header(b'{"\xff":1}'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(case: str) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"^/x/y: ") as caught:
        decode_header(HOSTILE[case], path="/x/y")
    assert caught.value.path == "/x/y"


@pytest.mark.parametrize("size", [0, 60, 65, 2**60])
def test_tensors_end_where_the_file_ends(size: int) -> None:
    data = encode_header(entries(("a", "U8", (4,))), align=64)
    assert decode_header(data, file_bytes=len(data) + 4).tensors == (Placed("a", "U8", (4,), len(data), 4),)
    with pytest.raises(DamagedCheckpointError):
        decode_header(data, file_bytes=size)


def test_a_surrogate_pair_is_a_character_and_a_backslash_is_not_half_of_one() -> None:
    data = header(b'{"__metadata__":{"a":"\\ud83d\\ude00","b":"\\\\ud800"}}')
    assert decode_header(data).metadata == {"a": "\U0001f600", "b": "\\ud800"}


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_in_the_package_s_own_words(data: bytes) -> None:
    for hostile in (data, header(data)):
        try:
            decode_header(hostile)
        except CheckpointError:
            continue


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_where_we_accept_a_mutated_header_safetensors_reads_the_same(data: st.DataObject) -> None:
    good = encode_header(entries(("a", "F32", (2, 3)), ("b", "U8", (5,))), align=8) + bytes(29)
    place = data.draw(st.integers(0, len(good) - 30))
    mutated = bytearray(good)
    mutated[place] = data.draw(st.integers(0, 255))
    try:
        found = decode_header(bytes(mutated), file_bytes=len(mutated))
    except CheckpointError:
        return
    theirs = dict(deserialize(bytes(mutated)))
    assert {t.name: (t.dtype, list(t.shape)) for t in found.tensors} == {
        name: (view["dtype"], list(view["shape"])) for name, view in theirs.items()
    }


def test_twenty_thousand_entries_are_one_call() -> None:
    tensors = entries(*((f"layer.{i}", "F32", (4,)) for i in range(20_000)))
    data = encode_header(tensors)
    assert len(decode_header(data).tensors) == 20_000
    assert msgspec.json.decode(data[8:])["layer.19999"]["data_offsets"] == [319_984, 320_000]
