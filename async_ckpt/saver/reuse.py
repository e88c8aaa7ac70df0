"""What the checkpoint before holds, so that files in which nothing changed need not be written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt.errors import RestoreError
from async_ckpt.saver.files import Before
from async_ckpt.state.digesting import Digests, FileDigests

if TYPE_CHECKING:
    from async_ckpt.saver.catalog import Catalog
    from async_ckpt.state.layout import Layout
    from async_ckpt.storage.records import Manifest
    from async_ckpt.storage.store import Store

__all__ = ["before_of", "latest_before"]


def before_of(step: int, layout: Layout, digests: Digests) -> Before:
    """Describe a checkpoint that this saver has just written."""
    return Before(
        step,
        {file.name: (file.size, found) for file, found in zip(layout.files, digests, strict=True)},
    )


async def latest_before(catalog: Catalog, store: Store) -> Before | None:
    """Describe the newest checkpoint that an earlier life has left; None without any that can be read."""
    for step in sorted(await store.steps(), reverse=True):
        try:
            manifest = await catalog.manifest(step)
        except RestoreError:
            continue
        return _described(manifest)
    return None


def _described(manifest: Manifest) -> Before:
    tensors: list[list[tuple[int, int, str]]] = [[] for _ in manifest.files]
    for index, entry in enumerate(manifest.tensors):
        tensors[entry.file].append((entry.offset, index, entry.digest))
    files = {}
    for file, found in zip(manifest.files, tensors, strict=True):
        found.sort()
        digests = tuple(digest for _, _, digest in found)
        files[file.name] = (file.bytes, FileDigests(file.header_digest, digests))
    return Before(manifest.step, files)
