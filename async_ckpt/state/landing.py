"""Where the bytes of one leaf go when a living state is restored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import jax_arrays, torch_arrays
from .arrays import NAMES, Bytes, as_stored, describe, present, stored
from .dtypes import checked_nbytes
from .fresh import fresh_row

__all__ = ["Landing", "filler", "lies_in_place", "replacer", "row_of"]


def row_of(value: Any) -> Bytes | None:
    """Give a writable array's own memory as a row of stored bytes, or None if it has to be converted."""
    if isinstance(value, np.ndarray):
        fits = value.flags.c_contiguous and (value.dtype in NAMES or as_stored(value).dtype in NAMES)
        return value.reshape(-1).view(np.uint8) if fits else None
    return torch_arrays.bytes_in_place(value) if torch_arrays.is_tensor(value) else None


def lies_in_place(value: Any) -> bool:
    """Say whether an array can be written to, in whatever way, without replacing the object."""
    if isinstance(value, np.ndarray):
        return value.flags.writeable
    return not jax_arrays.is_array(value)


class Landing:
    """One leaf on its way.

    Args:
        dtype: As it is stored.
        shape: As it is stored.
        row: The live memory to read straight into, or None.
        settle: Takes the array that was read into other memory to where it belongs.
    """

    __slots__ = ("_dtype", "_memory", "_settle", "_shape", "in_place")

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        *,
        row: Bytes | None = None,
        settle: Callable[[Any], None] | None = None,
    ) -> None:
        self._dtype = dtype
        self._shape = shape
        self._memory = row
        self._settle = settle
        self.in_place = row is not None

    @property
    def memory(self) -> Bytes:
        """The bytes to read into; taken from the system only when asked for."""
        if self._memory is None:
            self._memory = fresh_row(checked_nbytes(self._dtype, self._shape))
        return self._memory

    @property
    def array(self) -> Any:
        """What was read, as an array of stored elements."""
        return stored(self._dtype, self._shape, self.memory, writeable=True)

    def settle(self) -> None:
        """Take what was read to where it belongs."""
        if self._settle is not None:
            self._settle(self.array)


def filler(value: Any) -> Callable[[Any], None]:
    """Give what fills a writable array that has to be converted: other strides, byte order or device."""
    if torch_arrays.is_tensor(value):
        dtype, _, kind = describe(value)
        return lambda array: torch_arrays.fill(value, array, dtype, kind)
    return lambda array: np.copyto(as_stored(value), array)


def replacer(value: Any, put: Callable[[Any], None]) -> Callable[[Any], None]:
    """Give what puts a new array in the place of one that cannot be written to."""
    kind = describe(value).kind
    return lambda array: put(jax_arrays.place(present(array, kind), value))
