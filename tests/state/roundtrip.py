"""What the tests of the state room share: the way a state takes to the disk and back, and exact equality."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from async_ckpt.state.arrays import stored
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.staging import stage
from async_ckpt.state.tree import Flat, flatten, unflatten


def staged(flat: Flat) -> tuple[Layout, bytearray]:
    layout = plan(flat.specs)
    memory = bytearray(layout.total)
    stage(layout, flat.leaves, memory)
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
