"""Does a manifest account for every byte, once? Pure, and in Python integers, which do not wrap."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING

from async_ckpt.storage.names import MANIFEST, REPORT, check_file_name
from async_ckpt.storage.safetensors import tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_ckpt.storage.records import FileEntry, Manifest, TensorEntry

__all__ = ["check_manifest"]

_SMALLEST_HEADER = 10
_HEX = 32
_DIGITS = re.compile(r"[0-9a-f]*", re.ASCII)
_KIND = re.compile(r"[A-Za-z0-9_.:<>|=-]{1,64}", re.ASCII)

_TOGETHER = 256
"""Digests that are looked at in one call, which no other thread can interrupt."""


def check_manifest(manifest: Manifest) -> None:
    """Check what types alone do not say.

    Raises:
        ValueError: A file name is not allowed or comes twice, a path or a tensor name comes twice,
            a length contradicts dtype and shape, tensors overlap, bytes belong to nothing, or a digest or
            a kind is malformed.
    """
    names: set[str] = set()
    for entry in manifest.files:
        check_file_name(entry.name)
        if entry.name in names or entry.name in {MANIFEST, REPORT}:
            msg = f"file name {entry.name!r} is reserved or used twice"
            raise ValueError(msg)
        names.add(entry.name)
    _check_words(manifest.tensors)
    _check_names(manifest.tensors)
    _check_sizes(manifest.tensors)
    for entry, tensors in zip(manifest.files, _by_file(manifest), strict=True):
        _check_file(entry, tensors)


def _check_words(tensors: Sequence[TensorEntry]) -> None:
    for kind in {tensor.kind for tensor in tensors}:
        if not _KIND.fullmatch(kind):
            msg = f"malformed kind {kind!r:.80}"
            raise ValueError(msg)
    for at in range(0, len(tensors), _TOGETHER):
        digests = [tensor.digest for tensor in tensors[at : at + _TOGETHER]]
        if set(map(len, digests)) != {_HEX} or not _DIGITS.fullmatch("".join(digests)):
            msg = f"a malformed digest among those of tensors {at} to {at + len(digests) - 1}"
            raise ValueError(msg)


def _check_names(tensors: Sequence[TensorEntry]) -> None:
    paths = {tensor.path for tensor in tensors}
    names = {f"{tensor.file} {tensor.name}" for tensor in tensors}
    if len(paths) != len(tensors) or len(names) != len(tensors):
        msg = "two tensors share a path or a name"
        raise ValueError(msg)


def _check_sizes(tensors: Sequence[TensorEntry]) -> None:
    # There are far fewer shapes than tensors.
    for dtype, shape, nbytes in {(tensor.dtype, tensor.shape, tensor.bytes) for tensor in tensors}:
        size = tensor_bytes(dtype, shape)
        if size != nbytes:
            path = next(t.path for t in tensors if (t.dtype, t.shape, t.bytes) == (dtype, shape, nbytes))
            msg = f"tensor {path!r} takes {size} bytes by its shape, {nbytes} by its entry"
            raise ValueError(msg)


def _by_file(manifest: Manifest) -> list[list[TensorEntry]]:
    contents: list[list[TensorEntry]] = [[] for _ in manifest.files]
    for tensor in manifest.tensors:
        if not 0 <= tensor.file < len(contents):
            msg = f"tensor {tensor.path!r} lies in a file that is not listed"
            raise ValueError(msg)
        contents[tensor.file].append(tensor)
    return contents


def _check_file(entry: FileEntry, tensors: list[TensorEntry]) -> None:
    if entry.header_bytes < _SMALLEST_HEADER:
        msg = f"{entry.name}: no header"
        raise ValueError(msg)
    # Empty tensors come before the one that begins where they lie. Two sorts by one number each are quicker
    # than one by two, and leave no pairs to the garbage collector.
    tensors.sort(key=attrgetter("bytes"))
    tensors.sort(key=attrgetter("offset"))
    end = entry.header_bytes
    for tensor in tensors:
        if tensor.offset != end:
            msg = f"{entry.name}: a hole or an overlap before tensor {tensor.path!r}"
            raise ValueError(msg)
        end += tensor.bytes
    if end != entry.bytes:
        msg = f"{entry.name}: the tensors end at byte {end}, the file at {entry.bytes}"
        raise ValueError(msg)
