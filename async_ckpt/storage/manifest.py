"""What a checkpoint says about itself: bytes <-> records. Pure.

``manifest.json`` and ``report.json`` are JSON on one line::

    {"xxh3_128":"<32 hex digits>","body":<the record>}

The digest covers the bytes of the record, and the bytes around it are fixed, so no bit of the file
can change unnoticed. The digest finds damage, not malice: a record is judged in full after it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import xxhash
from msgspec import Meta, Struct

from async_ckpt.errors import DamagedCheckpointError, FormatVersionError
from async_ckpt.storage import strictjson
from async_ckpt.storage.canonical import decode_in_pieces, may_exceed_64_bits
from async_ckpt.storage.coverage import check_manifest
from async_ckpt.storage.records import VERSION, FileEntry, Manifest, Report, TensorEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MANIFEST_LIMIT",
    "REPORT_LIMIT",
    "VERSION",
    "FileEntry",
    "Manifest",
    "Report",
    "TensorEntry",
    "decode_manifest",
    "decode_report",
    "digest",
    "encode_manifest",
    "encode_report",
    "seal",
]

MANIFEST_LIMIT = 1 << 28
"""Bytes a reader accepts for a manifest: about a million tensors."""
REPORT_LIMIT = 1 << 26
"""Bytes a reader accepts for a report."""

_HEAD = b'{"xxh3_128":"'
_MIDDLE = b'","body":'
_TAIL = b"}\n"
_HEX = 32


R = TypeVar("R", Manifest, Report)


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return the xxh3_128 of ``data`` as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode ``manifest``; the same record gives the same bytes.

    Raises:
        ValueError: :func:`decode_manifest` would refuse it: floats that are not finite, integers
            beyond 64 bits, strings that are not Unicode, tensors that overlap or leave holes.
        TypeError: A field has a type that is not JSON's.
    """
    for opaque in (manifest.metrics, manifest.metadata, manifest.tree, manifest.listeners):
        strictjson.check(opaque)
    if not math.isfinite(manifest.created):
        msg = "created is not a time"
        raise ValueError(msg)
    check_manifest(manifest)
    return _seal(manifest)


def decode_manifest(data: bytes, *, path: str | None = None, step: int | None = None) -> Manifest:
    """Decode and judge a manifest.

    Args:
        data: The file, whole.
        path: For messages.
        step: The step it was found under; a manifest of another step is refused.

    Raises:
        FormatVersionError: It is intact, of a newer format.
        DamagedCheckpointError: Anything else that :func:`encode_manifest` would not have written.
    """
    return _open(data, Manifest, path, step)


def encode_report(report: Report) -> bytes:
    """Encode ``report``; raises as :func:`encode_manifest` does."""
    for opaque in (report.metrics, report.votes, report.listeners):
        strictjson.check(opaque)
    return _seal(report)


def decode_report(data: bytes, *, path: str | None = None, step: int | None = None) -> Report:
    """Decode and judge a report; raises as :func:`decode_manifest` does."""
    return _open(data, Report, path, step)


def _seal(record: Struct) -> bytes:
    return bytes(seal([msgspec.json.encode(record)]))


def seal(parts: Sequence[bytes]) -> bytearray:
    """Put the parts of a record's JSON together and its digest before them: the bytes of the file.

    Takes one part at a time, so that no call takes longer than its largest part asks for.
    """
    start = len(_HEAD) + _HEX + len(_MIDDLE)
    end = start + sum(map(len, parts))
    data = bytearray(end + len(_TAIL))
    at = start
    for part in parts:
        data[at : at + len(part)] = part
        at += len(part)
    data[start - len(_MIDDLE) : start] = _MIDDLE
    data[end:] = _TAIL
    written = digest(memoryview(data)[start:end])
    data[: len(_HEAD) + _HEX] = _HEAD + written.encode("ascii")
    return data


def _open(data: bytes, kind: type[R], path: str | None, step: int | None) -> R:
    where = path if path is not None else kind.__name__.lower()
    record: Any
    try:
        body = _unseal(data)
        record = decode_in_pieces(body) if kind is Manifest else None
        if record is None:
            _check_version(body, where, path, step)
            record = msgspec.json.decode(body, type=kind)
            if may_exceed_64_bits(body) or msgspec.json.encode(record) != body:
                # Not our spelling, so equal keys may hide in it: msgspec keeps the last one.
                strictjson.loads(body)
        if isinstance(record, Manifest):
            check_manifest(record)
        _check_step(record.step, step)
    except RecursionError:
        msg = f"{where}: nested too deeply"
        raise DamagedCheckpointError(msg, path=path, step=step) from None
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DamagedCheckpointError(msg, path=path, step=step) from error
    return record  # type: ignore[no-any-return]


def _check_step(found: int, asked: int | None) -> None:
    if asked is not None and found != asked:
        raise ValueError(f"it belongs to step {found}")


def _unseal(data: bytes) -> bytes:
    start = len(_HEAD) + _HEX + len(_MIDDLE)
    written = data[len(_HEAD) : len(_HEAD) + _HEX]
    if (
        len(data) <= start + len(_TAIL)
        or not data.startswith(_HEAD)
        or data[start - len(_MIDDLE) : start] != _MIDDLE
        or not data.endswith(_TAIL)
    ):
        msg = "not a record of this format, or cut short"
        raise ValueError(msg)
    body = data[start : -len(_TAIL)]
    if digest(body).encode("ascii") != written:
        msg = "its bytes do not match its digest"
        raise ValueError(msg)
    return body


class _Versioned(Struct):
    version: Annotated[int, Meta(ge=1)]


def _check_version(body: bytes, where: str, path: str | None, step: int | None) -> None:
    # Before anything else: a newer record may have fields that this release would call damage.
    found = msgspec.json.decode(body, type=_Versioned).version
    if found > VERSION:
        msg = f"{where}: written in format {found}; this release reads up to {VERSION}"
        raise FormatVersionError(msg, path=path, step=step)
