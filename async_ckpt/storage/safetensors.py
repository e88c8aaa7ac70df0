"""The safetensors header: bytes <-> which tensor lies where. Pure.

Layout: eight bytes of little-endian length, that many bytes of JSON, then the tensors without a
gap. The format is described at https://github.com/huggingface/safetensors#format. This reader is
stricter than that text: duplicate names, holes, overlaps and a padding other than spaces are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.storage import strictjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["DTYPE_BITS", "Header", "HeaderEntry", "Placed", "decode_header", "encode_header", "tensor_bytes"]

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits per element of everything safetensors 0.8 knows."""

MAX_HEADER = 100_000_000
"""Bytes of JSON that other readers of the format accept."""

MAX_NUMBER = 2**53
_PREFIX = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


class HeaderEntry(NamedTuple):
    """One tensor to be described: bytes ``begin`` to ``end`` of the data that follows the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Placed(NamedTuple):
    """One tensor found: ``offset`` counts from the start of the file; ``bytes`` is its length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class Header(NamedTuple):
    """A decoded header: tensors by offset, where their data begins and ends in the file, free text."""

    tensors: tuple[Placed, ...]
    header_bytes: int
    file_bytes: int
    metadata: dict[str, str]


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Count the bytes of a tensor in Python integers, which do not wrap around.

    Raises:
        ValueError: The dtype is unknown, a dimension is negative, or sub-byte elements do not fill
            the last byte.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        msg = f"unknown dtype {dtype!r}"
        raise ValueError(msg)
    for length in shape:
        if length < 0:
            msg = f"a dimension is negative: {length}"
            raise ValueError(msg)
        bits *= length
    if bits % 8:
        msg = f"{dtype} elements do not fill the last byte"
        raise ValueError(msg)
    return bits // 8


def encode_header(
    entries: Iterable[tuple[str, str, Sequence[int], int, int]],
    *,
    align: int = 4096,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Encode the header of a file that holds ``entries`` one after the other.

    Args:
        entries: :class:`HeaderEntry` or such tuples, in the order of the data, without holes.
        align: The length of what is returned is a multiple of this; the rest is spaces.
        metadata: Free text for people and other tools.

    Returns:
        Length prefix, JSON and spaces; the first tensor begins right after.

    Raises:
        ValueError: A name comes twice, is reserved or is not Unicode, a dtype is unknown, an entry
            does not begin where the one before it ended or contradicts its shape, or the header
            exceeds what readers of the format accept.
    """
    parts = [b"{"]
    if metadata:
        parts += (msgspec.json.encode(_METADATA), b":", msgspec.json.encode(dict(metadata)), b",")
    _spell(entries, parts)
    # In place of the last comma, or behind the brace of an empty header.
    parts[-1] = parts[-1].removesuffix(b",") + b"}"
    used = sum(map(len, parts))
    total = -(-(_PREFIX + used) // align) * align
    length = total - _PREFIX
    if length > MAX_HEADER:
        msg = f"the header takes {length} bytes, more than the {MAX_HEADER} that readers accept"
        raise ValueError(msg)
    return b"".join((length.to_bytes(_PREFIX, "little"), *parts, b" " * (length - used)))


def _spell(entries: Iterable[tuple[str, str, Sequence[int], int, int]], parts: list[bytes]) -> None:
    """Spell entry after entry, each with a comma behind it; no call takes long, however many there are."""
    encode = msgspec.json.Encoder().encode
    known: dict[tuple[str, tuple[int, ...]], tuple[int, bytes]] = {}
    names = {_METADATA}
    position = 0
    for name, dtype, shape, begin, end in entries:
        lengths = tuple(shape)
        size, kind = known.get((dtype, lengths), (-1, b""))
        if not kind:
            size = tensor_bytes(dtype, lengths)
            kind = b':{"dtype":%b,"shape":%b,"data_offsets":[' % (encode(dtype), encode(lengths))
            known[dtype, lengths] = size, kind
        if name in names:
            msg = f"tensor name {name!r} is reserved or used twice"
            raise ValueError(msg)
        names.add(name)
        if begin != position or end != begin + size:
            msg = f"tensor {name!r} leaves a hole, overlaps, or contradicts its shape"
            raise ValueError(msg)
        parts.append(b"%b%b%d,%d]}," % (encode(name), kind, begin, end))
        position = end


def decode_header(
    data: bytes | memoryview, *, file_bytes: int | None = None, path: str | None = None
) -> Header:
    """Decode the header at the start of ``data`` and check that its tensors cover the file.

    Args:
        data: The file, or at least its header; what follows the header is not looked at.
        file_bytes: Size of the whole file in bytes, if it is known.
        path: For messages.

    Raises:
        DamagedCheckpointError: It is not a header, or tensors overlap, leave holes or do not end
            where the file ends.
    """
    try:
        return _decode(memoryview(data).cast("B"), file_bytes)
    except ValueError as error:
        where = "safetensors header" if path is None else path
        msg = f"{where}: {error}"
        raise DamagedCheckpointError(msg, path=path) from error


def _decode(data: memoryview, file_bytes: int | None) -> Header:
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX or length > MAX_HEADER or len(data) < _PREFIX + length:
        msg = "the header is longer than the file or than any header"
        raise ValueError(msg)
    text = bytes(data[_PREFIX : _PREFIX + length])
    record = strictjson.loads(text)
    if not isinstance(record, dict) or not text.startswith(b"{") or text.rstrip(b" ")[-1:] != b"}":
        msg = "the header is not one JSON object padded with spaces"
        raise ValueError(msg)
    metadata = record.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        msg = "the metadata is not a table of strings"
        raise ValueError(msg)
    start = _PREFIX + length
    tensors = sorted((_placed(name, entry, start) for name, entry in record.items()), key=_position)
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            msg = f"a hole or an overlap before tensor {tensor.name!r}"
            raise ValueError(msg)
        end += tensor.bytes
    if file_bytes is not None and end != file_bytes:
        msg = f"the tensors end at byte {end}, the file at {file_bytes}"
        raise ValueError(msg)
    return Header(tuple(tensors), start, end, metadata)


def _position(tensor: Placed) -> tuple[int, int]:
    return tensor.offset, tensor.bytes


def _placed(name: str, entry: object, start: int) -> Placed:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        msg = f"tensor {name!r} is not described by dtype, shape and data_offsets"
        raise ValueError(msg)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        msg = f"tensor {name!r} has a malformed dtype, shape or data_offsets"
        raise ValueError(msg)
    begin, end = offsets
    size = tensor_bytes(dtype, shape)
    if end - begin != size:
        msg = f"tensor {name!r} takes {size} bytes by its shape and {end - begin} by its offsets"
        raise ValueError(msg)
    return Placed(name, dtype, tuple(shape), start + begin, size)


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_NUMBER for item in value)
