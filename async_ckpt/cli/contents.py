"""The values in a checkpoint, one tensor at a time, whatever library they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.state.arrays import stored
from async_ckpt.state.parse import Node, parse
from async_ckpt.state.rng import Rng, capture
from async_ckpt.storage.names import MANIFEST

if TYPE_CHECKING:
    from async_ckpt.cli.reading import Directory
    from async_ckpt.storage.records import Manifest, TensorEntry

__all__ = ["plain_values", "read_tensor"]


async def read_tensor(found: Directory, manifest: Manifest, entry: TensorEntry) -> np.ndarray[Any, Any]:
    """Read one tensor as a numpy array, and check its digest. Under a lease.

    Raises:
        DamagedCheckpointError: It is not what was saved.
    """
    name = manifest.files[entry.file].name
    memory = np.empty(entry.bytes, np.uint8)
    await found.store.read_into(manifest.step, name, entry.offset, memory.data)
    if await found.worker.call(_digest, memory) != entry.digest:
        path = found.catalog.path(manifest.step, name)
        message = f"{path}: the tensor {entry.path!r} is not what was saved"
        raise DamagedCheckpointError(message, step=manifest.step, path=path)
    return stored(entry.dtype, entry.shape, memory)


def _digest(memory: np.ndarray[Any, Any]) -> str:
    return xxhash.xxh3_128(memory.data).hexdigest()


def plain_values(found: Directory, manifest: Manifest) -> dict[str, str]:
    """Everything in the tree that is no tensor, in words, by path.

    Raises:
        DamagedCheckpointError: The manifest's tree is none.
    """
    try:
        root = parse(manifest.tree, len(manifest.tensors))
    except DamagedCheckpointError as error:
        path = found.catalog.path(manifest.step, MANIFEST)
        raise DamagedCheckpointError(f"{path}: {error}", step=manifest.step, path=path) from error
    return dict(_plain("", root))


def _in_words(value: Any) -> str:
    if isinstance(value, Rng):
        # Its state is pages of numbers; whether it is the same is what matters.
        return f"{value.kind} at {xxhash.xxh3_64_hexdigest(repr(capture(value.value)).encode())}"
    return repr(value)


def _plain(path: str, node: Node) -> Iterator[tuple[str, str]]:
    if node.tag in ("plain", "inline", "rng"):
        yield path, _in_words(node.value)
    for place, child in () if node.is_leaf else node.places(path):
        yield from _plain(place, child)
