"""Did anybody change the state while it was being copied? The staged bytes beside the living ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Bytes
from .copying import CHUNK, Copier
from .layout import FilePlan, Layout, Placed
from .placing import Placing
from .staging import as_row

__all__ = ["changed"]


def changed(layout: Layout, placing: Placing, copier: Copier, memory: Any) -> list[int]:
    """Find the tensors whose living bytes are not the staged ones.

    Bytes are compared, so NaN equals itself and 0.0 is not -0.0. The state is read by the routine that
    staged it, a chunk at a time, in the calling thread; others have the interpreter meanwhile. A change that
    was undone, or that came before the tensor was copied, cannot be seen.

    Args:
        layout: What lies in which file.
        placing: What lies where in memory. What was not staged, because it never changes or is read while
            it is written, is not looked at.
        copier: Has the live arrays.
        memory: The staged bytes.

    Returns:
        Indices of the tensors, ascending. One that no longer has its shape or dtype, or cannot be read any
        more, has changed.
    """
    row = as_row(memory)
    scratch = np.empty(min(CHUNK, max((file.size for file in layout.files), default=0)), np.uint8)
    found: set[int] = set()
    for at, file in zip(placing.images, layout.files, strict=True):
        if at is not None:
            found.update(_in_image(file, copier, row[at : at + file.size], scratch))
            continue
        for placed in file.tensors:
            start = placing.stash.get(placed.index)
            if start is not None and _differs(placed, copier, row[start : start + placed.nbytes], 0, scratch):
                found.add(placed.index)
    return sorted(found)


def _in_image(file: FilePlan, copier: Copier, image: Bytes, scratch: Bytes) -> set[int]:
    found: set[int] = set()
    for start in range(0, file.size, CHUNK):
        staged = image[start : start + CHUNK]
        if not _same_stretch(file, copier, start, staged, scratch[: len(staged)]):
            found.update(_where(file, copier, start, staged, scratch))
    return found


def _same_stretch(file: FilePlan, copier: Copier, start: int, staged: Bytes, scratch: Bytes) -> bool:
    """Compare all tensors of a stretch together: one call for hundreds of small ones."""
    try:
        copier.copy(file, start, start + len(staged), scratch)
    except _UNREADABLE:
        return False
    return _same(scratch, staged)


def _where(file: FilePlan, copier: Copier, start: int, staged: Bytes, scratch: Bytes) -> set[int]:
    """Compare the tensors of a stretch one by one."""
    found = set()
    for placed in file.tensors:
        begin = placed.offset_in_file
        low, high = max(begin, start), min(begin + placed.nbytes, start + len(staged))
        if low < high and _differs(placed, copier, staged[low - start : high - start], low - begin, scratch):
            found.add(placed.index)
    return found


# What numpy, torch and jax raise when an array is no longer there, or no longer what it was.
_UNREADABLE = (ValueError, TypeError, RuntimeError)


def _differs(placed: Placed, copier: Copier, staged: Bytes, low: int, scratch: Bytes) -> bool:
    """Compare one tensor, from byte ``low`` on as far as ``staged`` goes."""
    for at in range(0, len(staged), len(scratch)):
        part = staged[at : at + len(scratch)]
        live = scratch[: len(part)]
        try:
            copier._copy_part(placed, low + at, low + at + len(part), live)
        except _UNREADABLE:
            return True
        if not _same(live, part):
            return True
    return False


def _same(one: Bytes, other: Bytes) -> bool:
    # Eight bytes at a time, for an eighth of the booleans; numpy does not mind where they start.
    words = len(one) // 8 * 8
    return bool(
        np.array_equal(one[:words].view(np.uint64), other[:words].view(np.uint64))
        and np.array_equal(one[words:], other[words:])
    )
