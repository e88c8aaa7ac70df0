"""Where a state's bytes wait in memory until they are on disk. Decides; copies nothing.

Three ways, file by file. What may change is copied to an image of its file, which is written as it lies.
What never changes need not be copied to be kept: its files are made piece by piece, in a small window, while
they are written. And a state that is larger than the memory it may take goes through the window as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .dtypes import PAGE
from .layout import Layout

__all__ = ["LEAST_WINDOW", "Placing", "Window", "place"]

_SLOT = 16 * 2**20
_ABREAST = 4
LEAST_WINDOW = 2**20
"""Bytes of the smallest window that files can be made in."""

_WORTH = 2**20
"""Bytes that never change from which a file is worth the window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Memory for files in the making: two slots for each of a few files.

    Attributes:
        start: Where it starts in the arena.
        slot: Bytes of a slot, a multiple of the page.
        abreast: How many files are made at the same time.
    """

    start: int
    slot: int
    abreast: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return 2 * self.slot * self.abreast


@dataclass(frozen=True, slots=True)
class Placing:
    """Where everything goes.

    Attributes:
        images: For each file where its image starts in the arena, or None if it is made in the window.
        stash: Where the changing leaves of files that are made in the window wait, by leaf.
        window: The window, or None if no file needs one.
        live: Whether the files in the window are made of the living state, so that the copy is over only
            when they are written.
        nbytes: Bytes of arena.
    """

    images: tuple[int | None, ...]
    stash: dict[int, int]
    window: Window | None
    live: bool
    nbytes: int


def place(layout: Layout, constant: Sequence[bool], limit: int | None = None) -> Placing:
    """Find a place for every file.

    Args:
        layout: What lies in which file.
        constant: For each leaf whether it never changes.
        limit: Bytes the arena may take, at least ``LEAST_WINDOW``; None for as many as it needs.
    """
    images: list[int | None] = []
    stash: dict[int, int] = {}
    at = 0
    streamed = []
    for file in layout.files:
        kept = sum(placed.nbytes for placed in file.tensors if constant[placed.index])
        if kept < _WORTH:
            at = _up(at)
            images.append(at)
            at += file.size
        else:
            images.append(None)
            streamed.append(file.size)
            for placed in file.tensors:
                if not constant[placed.index]:
                    stash[placed.index] = at
                    at += _up(placed.nbytes, 64)
    at = _up(at)
    if limit is None or at + (LEAST_WINDOW if streamed else 0) <= limit:
        window = _window(at, streamed, None if limit is None else limit - at) if streamed else None
        total = at + (window.nbytes if window else 0)
        return Placing(tuple(images), stash, window, live=False, nbytes=total)
    window = _window(0, [file.size for file in layout.files], limit)
    return Placing((None,) * len(layout.files), {}, window, live=True, nbytes=window.nbytes)


def _window(start: int, sizes: Sequence[int], limit: int | None) -> Window:
    room = 2 * _SLOT * _ABREAST if limit is None else limit
    abreast = max(1, min(_ABREAST, len(sizes), room // LEAST_WINDOW))
    slot = min(_SLOT, _up(max(sizes)), room // (2 * abreast) // PAGE * PAGE)
    return Window(start, slot, abreast)


def _up(value: int, align: int = PAGE) -> int:
    return -(-value // align) * align
