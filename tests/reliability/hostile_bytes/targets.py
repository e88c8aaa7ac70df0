"""What is fuzzed: each decoder with all that is said of its answers. Imports nothing of pytest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from async_ckpt.errors import CheckpointError
from async_ckpt.saver.catalog import plain, plain_metrics
from async_ckpt.saver.saver import Saver
from async_ckpt.state.build import build
from async_ckpt.state.parse import parse
from async_ckpt.storage import names, strictjson
from async_ckpt.storage.manifest import (
    decode_manifest,
    decode_report,
    encode_manifest,
    encode_report,
    seal,
)
from async_ckpt.storage.safetensors import decode_header, encode_header

__all__ = ["TARGETS", "Target"]

# Whoever restores has imported all that reading takes, so that no byte makes anything be imported.
_ = Saver


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        judge: Takes any bytes. True: they were accepted; False: refused by an error of ours. Whatever
            else it raises is a finding.
        tokens: Pieces of the language, for mutations that know it.
        skip: Bytes at the start of a real file that are not part of the input.
        drop: Bytes at its end.
    """

    judge: Callable[[bytes], bool]
    tokens: tuple[bytes, ...]
    skip: int = 0
    drop: int = 0
    seeds: tuple[bytes, ...] = field(default=())


def _manifest(data: bytes) -> bool:
    """Judge the bytes as a file, and as a record with the digest that somebody hostile would give it."""
    assert not _manifest_file(data), "bytes without a digest were accepted"
    return _manifest_file(bytes(seal([data])))


def _manifest_file(data: bytes) -> bool:
    try:
        manifest = decode_manifest(data, path="m", step=None)
    except CheckpointError:
        return False
    again = _encoded(encode_manifest, manifest)
    assert again is None or decode_manifest(again) == manifest, "it does not come back"
    for entry in manifest.files:
        assert 10 <= entry.header_bytes <= entry.bytes <= 2**53
        assert _is_plain_name(entry.name), entry.name
    try:
        plain_metrics(manifest.metrics, step=1, path="m")
        plain(manifest.metadata, step=1, path="m")
        for state in manifest.listeners.values():
            plain(state, step=1, path="m")
        build(parse(manifest.tree, len(manifest.tensors)), lambda index: index)
    except CheckpointError:
        return False
    return True


def _encoded(encode: Callable[[Any], bytes], record: object) -> bytes | None:
    """Encode what was decoded; None for what only differs from what we write by being deeper."""
    try:
        return encode(record)
    except ValueError as error:
        if "nested deeper" in str(error):
            return None
        raise


def _report(data: bytes) -> bool:
    try:
        report = decode_report(bytes(seal([data])), path="r")
    except CheckpointError:
        return False
    again = _encoded(encode_report, report)
    assert again is None or decode_report(again) == report, "it does not come back"
    try:
        plain_metrics(report.metrics, step=1, path="r")
        for state in report.listeners.values():
            plain(state, step=1, path="r")
    except CheckpointError:
        return False
    return True


def _header(data: bytes) -> bool:
    """Judge a header as the start of a file of any length, and of one that ends where the tensors end."""
    try:
        header = decode_header(data)
    except CheckpointError:
        return False
    end = header.header_bytes
    for tensor in header.tensors:
        assert tensor.offset == end, "a hole or an overlap"
        assert tensor.bytes >= 0
        end += tensor.bytes
    assert end == header.file_bytes
    decode_header(data, file_bytes=end)
    start = header.header_bytes
    entries = [
        (t.name, t.dtype, t.shape, t.offset - start, t.offset - start + t.bytes) for t in header.tensors
    ]
    again = decode_header(encode_header(entries, metadata=header.metadata))
    assert [t[:3] for t in again.tensors] == [t[:3] for t in header.tensors], "it does not come back"
    return True


def _strict_json(data: bytes) -> bool:
    try:
        value = strictjson.loads(data)
    except ValueError:
        return False
    assert _same(value, json.loads(data)), "the standard library reads something else"
    _check_plain(value)
    return True


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def _check_plain(value: Any) -> None:
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            level += [*item, *item.values()]
        elif isinstance(item, list):
            level += item
        elif isinstance(item, str):
            item.encode("utf-8")
        elif isinstance(item, float):
            assert math.isfinite(item)
        elif isinstance(item, int):
            assert -(2**63) <= item < 2**64
        else:
            assert item is None


def _names(data: bytes) -> bool:
    """Judge a name as a directory may hold it: any bytes."""
    name = data.decode("utf-8", "surrogateescape")
    step = names.parse_step(name)
    if step is not None:
        assert names.step_name(step) == name, "two names of one step"
        names.check_step(step)
    for prefix in (names.TEMP, names.TRASH, names.REPLACED, names.ABANDONED, names.PIN, names.LEASE):
        after = names.step_after(prefix, name)
        if after is not None:
            assert name.startswith(prefix + names.step_name(after)), "another step's"
            assert step is None, "listed and swept"
    if names.is_file_name(name):
        assert _is_plain_name(name), name
        return True
    return step is not None


def _is_plain_name(name: str) -> bool:
    return name.isascii() and name.isprintable() and not set(name) & set("/\\: \0") and name[0] not in ".-"


_JSON: tuple[bytes, ...] = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"null",
    b"true",
    b"NaN",
    b"1e400",
    b"-1",
    b"-0",
    b"0.5",
)
_JSON += (
    b"\\ud800",
    b"\\u0000",
    b"\xff",
    b"9007199254740993",
    b"18446744073709551616",
    b"\xef\xbc\x91",
    b"\\",
)
_JSON += (
    b'"a":1,"a":2',
    b"[" * 120,
    b"[" * 2000,
    b"9" * 5000,
    b"1E5",
    b"01",
    b"/",
    b"..",
    b"{}",
    b"[]",
    b'""',
)
_PLAIN = tuple(
    b'"%b"' % word
    for word in (
        *(b"dict", b"odict", b"list", b"tuple", b"namedtuple", b"dataclass", b"node", b"stateful", b"array"),
        *(
            b"inline",
            b"rng",
            b"numpy",
            b"torch",
            b"jax",
            b"bytes",
            b"float",
            b"int",
            b"complex",
            b"__class__",
        ),
    )
)
_MANIFEST = tuple(
    b'"%b":' % word
    for word in (
        *(b"version", b"step", b"attempt", b"created", b"expects_report", b"metrics", b"metadata", b"files"),
        *(b"tensors", b"tree", b"listeners", b"name", b"bytes", b"header_bytes", b"header_digest", b"path"),
        *(b"file", b"dtype", b"shape", b"offset", b"digest", b"kind", b"votes"),
    )
)
_DTYPES = tuple(b'"%b"' % word for word in (b"F32", b"BF16", b"U8", b"F4", b"F8_E4M3", b"BOOL", b"C64"))
_HEADER = (b'"dtype":', b'"shape":', b'"data_offsets":', b'"__metadata__":', b"  ", b"\0", b"[0,0]", *_DTYPES)
_NAMES: tuple[bytes, ...] = (
    b"step-",
    b".tmp-",
    b".trash-",
    b".trash-replaced-",
    b".abandoned-",
    b"lease-",
    b"pin-",
    b"0" * 8,
    b"-",
)
_NAMES += (
    b"\xef\xbc\x91",
    b"_",
    b"/",
    b"..",
    b"\0",
    b"\n",
    b" ",
    b"+",
    b"9" * 19,
    b"\xd9\xa1",
    b"manifest.json",
)

SEALED = len(b'{"xxh3_128":"') + 32 + len(b'","body":')
"""Bytes before the record in a sealed file; two follow it."""

TARGETS = {
    "manifest": Target(_manifest, _JSON + _PLAIN + _MANIFEST + _DTYPES, skip=SEALED, drop=2),
    "report": Target(_report, _JSON + _PLAIN + _MANIFEST, skip=SEALED, drop=2),
    "header": Target(_header, _JSON + _HEADER),
    "json": Target(_strict_json, _JSON, seeds=(b'{"a":[1,-2.5e3,"\\u00e4",null,true,{}]}', b"0")),
    "names": Target(
        _names,
        _NAMES,
        seeds=(b"step-00000012", b".tmp-step-00000012-0123456789abcdef", b"model-00001-of-00001.safetensors"),
    ),
}
