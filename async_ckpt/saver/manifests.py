"""The manifests of a saver: what stays the same from save to save is spelled once per layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt.storage.manifest import digest
from async_ckpt.storage.records import FileEntry, TensorEntry
from async_ckpt.storage.template import ManifestTemplate

if TYPE_CHECKING:
    from async_ckpt.state.layout import Layout
    from async_ckpt.state.outline import Outline

__all__ = ["manifest_template"]

_ANY = "0" * 32


def manifest_template(outline: Outline, layout: Layout) -> ManifestTemplate:
    """Spell what is known of the manifests of all saves with this outline and layout. Takes a while."""
    files = [
        FileEntry(
            name=file.name,
            bytes=file.size,
            header_bytes=file.header_bytes,
            header_digest=digest(file.header),
        )
        for file in layout.files
    ]
    places = [(0, 0)] * len(outline)
    for number, file in enumerate(layout.files):
        for placed in file.tensors:
            places[placed.index] = number, placed.offset_in_file
    tensors = [
        TensorEntry(
            path=path,
            name=tensor.name,
            file=file,
            dtype=tensor.dtype,
            shape=tensor.shape,
            offset=offset,
            bytes=tensor.nbytes,
            digest=_ANY,
            kind=spec.kind,
        )
        for path, tensor, spec, (file, offset) in zip(
            outline.paths, outline.tensors, outline.specs, places, strict=True
        )
    ]
    contents = [[placed.index for placed in file.tensors] for file in layout.files]
    return ManifestTemplate(files, tensors, contents, outline.skeleton.pieces)
