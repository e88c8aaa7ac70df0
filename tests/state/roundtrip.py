"""What the tests of the state room share: the way a state takes to the disk and back, and exact equality."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from async_ckpt.state import staging
from async_ckpt.state.arrays import stored
from async_ckpt.state.copying import Copier
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.placing import Placing, place
from async_ckpt.state.tree import Flat, flatten, unflatten


def copier_of(flat: Flat) -> Copier:
    return Copier(flat.outline.specs, flat.values, flat.outline.paths)


def imaged(layout: Layout) -> Placing:
    """Every file as an image."""
    return place(layout, [False] * len(layout.offsets))


def stage(flat: Flat, layout: Layout, memory: Any) -> None:
    """Copy a state in the calling thread."""
    row = staging.as_row(memory)
    copier, placing = copier_of(flat), imaged(layout)
    for at, file in zip(placing.images, layout.files, strict=True):
        assert at is not None
        copier.copy(file, 0, file.size, row[at : at + file.size])


def view(flat: Flat, layout: Layout, root: Any) -> Any:
    return staging.view(flat.structure, layout, imaged(layout), flat.outline.specs, flat.values, root)


def staged(flat: Flat) -> tuple[Layout, bytearray]:
    layout = plan(flat.specs)
    memory = bytearray(layout.total)
    stage(flat, layout, memory)
    return layout, memory


def stored_arrays(flat: Flat) -> list[Any]:
    """The arrays as a reader would find them in the files."""
    layout, memory = staged(flat)
    return [
        stored(leaf.spec.dtype, leaf.spec.shape, memory[at : at + leaf.spec.nbytes], writeable=True)
        for leaf, at in zip(flat.leaves, layout.offsets, strict=True)
    ]


def through_json(structure: Any) -> Any:
    return json.loads(json.dumps(structure, allow_nan=False))


def there_and_back(state: Any, **options: Any) -> Any:
    flat = flatten(state, **options)
    return unflatten(through_json(flat.structure), stored_arrays(flat))


def exact(value: Any) -> Any:
    """Something that compares equal only for values that are the same to the bit, types included."""
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, np.generic):
        return ("scalar", str(value.dtype), value.tobytes())
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    if isinstance(value, complex):
        return ("complex", struct.pack(">dd", value.real, value.imag))
    if isinstance(value, dict):
        return (type(value), [(exact(key), exact(child)) for key, child in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [exact(child) for child in value])
    return (type(value), value)
