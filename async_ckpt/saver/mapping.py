"""A checkpoint seen as memory: views of its mapped files, nothing of which is read until it is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from async_ckpt.saver.catalog import Catalog
from async_ckpt.saver.verifying import verify_headers
from async_ckpt.state.arrays import Bytes, stored
from async_ckpt.state.build import build
from async_ckpt.state.parse import Node, choose, parse
from async_ckpt.storage.records import Manifest
from async_ckpt.storage.store import Store

__all__ = ["Mapped"]


class Mapped:
    """Views of mapped files, in fresh containers.

    numpy arrays are read-only. torch tensors share the memory, and what is written to them is seen by nobody
    else; where the memory is read-only, numpy arrays stand in for them, and for jax arrays everywhere. What
    has to be converted is read at once: texts, random keys, arrays of another byte order.
    """

    def __init__(self, manifest: Manifest, only: str | tuple[str, ...] | None) -> None:
        self._root = choose(parse(manifest.tree, len(manifest.tensors)), only)
        self.indices = () if self._root is None else tuple(self._root.leaves())
        self._manifest = manifest
        self._rows: dict[int, Bytes] = {}
        self._shared: set[int] = set()

    async def attach(self, store: Store, catalog: Catalog) -> None:
        """Check the headers of the files that are needed, and map them. Under a lease.

        Raises:
            DamagedCheckpointError: A header is not what was saved.
        """
        manifest = self._manifest
        files = sorted({manifest.tensors[index].file for index in self.indices})
        await verify_headers(store, catalog, manifest, files)
        for file in files:
            view = await store.map(manifest.step, manifest.files[file].name)
            self._rows[file] = np.frombuffer(view, np.uint8)

    def finish(self) -> Any:
        """Put the views together."""
        if self._root is None:
            return None
        self._choose_views(self._root)
        return build(self._root, self._array)

    def _choose_views(self, node: Node) -> None:
        if node.tag == "array":
            library, _, variant = node.label.partition(":")
            if library == "torch" and self._rows[self._manifest.tensors[node.value].file].flags.writeable:
                self._shared.add(node.value)
            elif library == "torch" or (library == "jax" and not variant.startswith("key:")):
                node.label = f"numpy:{variant}" if variant else "numpy"
        for child in node.children:
            self._choose_views(child)

    def _array(self, index: int) -> Any:
        entry = self._manifest.tensors[index]
        row = self._rows[entry.file][entry.offset : entry.offset + entry.bytes]
        return stored(entry.dtype, entry.shape, row, writeable=index in self._shared)
