"""Does a manifest account for every byte, once? Pure, and in Python integers, which do not wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt.storage.names import MANIFEST, REPORT, check_file_name
from async_ckpt.storage.safetensors import tensor_bytes

if TYPE_CHECKING:
    from async_ckpt.storage.records import FileEntry, Manifest, TensorEntry

__all__ = ["check_manifest"]

_SMALLEST_HEADER = 10


def check_manifest(manifest: Manifest) -> None:
    """Check what types alone do not say.

    Raises:
        ValueError: A file name is not allowed or comes twice, a path or a tensor name comes twice,
            a length contradicts dtype and shape, tensors overlap, or bytes belong to nothing.
    """
    names: set[str] = set()
    for entry in manifest.files:
        check_file_name(entry.name)
        if entry.name in names or entry.name in {MANIFEST, REPORT}:
            msg = f"file name {entry.name!r} is reserved or used twice"
            raise ValueError(msg)
        names.add(entry.name)
    contents = _by_file(manifest)
    for entry, tensors in zip(manifest.files, contents, strict=True):
        _check_file(entry, tensors)


def _by_file(manifest: Manifest) -> list[list[TensorEntry]]:
    contents: list[list[TensorEntry]] = [[] for _ in manifest.files]
    paths: set[str] = set()
    named: set[tuple[int, str]] = set()
    for tensor in manifest.tensors:
        if not 0 <= tensor.file < len(contents):
            msg = f"tensor {tensor.path!r} lies in a file that is not listed"
            raise ValueError(msg)
        size = tensor_bytes(tensor.dtype, tensor.shape)
        if size != tensor.bytes:
            msg = f"tensor {tensor.path!r} takes {size} bytes by its shape, {tensor.bytes} by its entry"
            raise ValueError(msg)
        contents[tensor.file].append(tensor)
        paths.add(tensor.path)
        named.add((tensor.file, tensor.name))
    if len(paths) != len(manifest.tensors) or len(named) != len(manifest.tensors):
        msg = "two tensors share a path or a name"
        raise ValueError(msg)
    return contents


def _check_file(entry: FileEntry, tensors: list[TensorEntry]) -> None:
    if entry.header_bytes < _SMALLEST_HEADER:
        msg = f"{entry.name}: no header"
        raise ValueError(msg)
    end = entry.header_bytes
    for tensor in sorted(tensors, key=_position):
        if tensor.offset != end:
            msg = f"{entry.name}: a hole or an overlap before tensor {tensor.path!r}"
            raise ValueError(msg)
        end += tensor.bytes
    if end != entry.bytes:
        msg = f"{entry.name}: the tensors end at byte {end}, the file at {entry.bytes}"
        raise ValueError(msg)


def _position(tensor: TensorEntry) -> tuple[int, int]:
    return tensor.offset, tensor.bytes
