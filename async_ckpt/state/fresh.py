"""Memory for arrays that are about to be read.

The first touch of fresh memory is most of what reading into it costs; huge pages make it cheaper. Each array
has its own memory, so one that is kept does not keep the others.
"""

from __future__ import annotations

import numpy as np

from async_ckpt.system.pages import fresh_pages

from .arrays import Bytes

__all__ = ["fresh_row"]

_LARGE = 1 << 20
"""Bytes from which an array gets pages of its own."""


def fresh_row(nbytes: int) -> Bytes:
    """Give a writable row of bytes that nobody else can see; what is in it is undefined.

    Raises:
        MemoryError: There is not that much.
    """
    return fresh_pages(nbytes) if nbytes >= _LARGE else np.empty(nbytes, np.uint8)
