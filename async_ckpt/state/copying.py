"""Any stretch of any file, made from the arrays that go into it.

One routine serves both ways a state is staged: whole files into an arena, and piece after piece through a
window. It leaves the interpreter to other threads while it copies, and takes small tensors together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from . import torch_arrays
from .arrays import DTYPES, Array, ArraySpec, Bytes, as_stored
from .dtypes import ITEMSIZE
from .layout import FilePlan, Placed

__all__ = ["CHUNK", "Copier"]

CHUNK = 16 * 2**20
"""Bytes that are copied or digested in one go, without the interpreter's lock."""

_SMALL = 32 * 2**10
"""Bytes up to which tensors that lie side by side are copied by one call."""

_TOGETHER = 256
"""How many of them: the call holds the interpreter's lock."""


class Copier:
    """Copies the arrays of one save to where they belong. Its methods may run in several threads at once.

    Args:
        specs: How each leaf is stored.
        values: The leaves: live arrays, or captured text and bytes.
        paths: Where they stand in the state, for messages.
        skip: Leaves that somebody else copies: their bytes are left as they are.

    Attributes:
        values: As given.
    """

    def __init__(
        self,
        specs: Sequence[ArraySpec],
        values: Sequence[Any],
        paths: Sequence[str],
        skip: Container[int] = frozenset(),
    ) -> None:
        self._specs = specs
        self.values = values
        self._paths = paths
        self._skip = skip

    def copy(self, file: FilePlan, start: int, stop: int, target: Bytes) -> None:
        """Make the bytes from ``start`` to ``stop`` of a file.

        Args:
            file: The file.
            start: In bytes, a multiple of the page.
            stop: Likewise, or the end of the file.
            target: Exactly as long; what follows the last tensor in it is left as it is.

        Raises:
            ValueError: An array is not what it was when the state was taken apart.
        """
        if start < file.header_bytes:
            end = min(stop, file.header_bytes)
            target[: end - start] = np.frombuffer(file.header, np.uint8)[start:end]
        tensors = file.tensors
        first = max(0, bisect_right(tensors, start, key=_offset) - 1)
        run: list[Placed] = []
        for number in range(first, len(tensors)):
            placed = tensors[number]
            begin, end = placed.offset_in_file, placed.offset_in_file + placed.nbytes
            if begin >= stop:
                break
            if end <= start or not placed.nbytes or placed.index in self._skip:
                continue
            if placed.nbytes <= _SMALL and begin >= start and end <= stop:
                if run and (len(run) == _TOGETHER or not self._joins(run[-1], placed)):
                    self._copy_run(run, start, target)
                    run = []
                run.append(placed)
            else:
                low, high = max(start, begin), min(stop, end)
                self._copy_part(placed, low - begin, high - begin, target[low - start : high - start])
        if run:
            self._copy_run(run, start, target)

    def copy_leaf(self, placed: Placed, target: Bytes) -> None:
        """Copy one leaf, wherever its file has it, to memory of exactly its size."""
        if placed.nbytes and placed.index not in self._skip:
            self._copy_part(placed, 0, placed.nbytes, target)

    def _joins(self, one: Placed, other: Placed) -> bool:
        """Say whether the other follows at once, and has the same elements."""
        end = one.offset_in_file + one.nbytes
        return end == other.offset_in_file and (
            self._specs[one.index].dtype == self._specs[other.index].dtype
        )

    def _copy_run(self, run: list[Placed], start: int, target: Bytes) -> None:
        """Copy small tensors that follow one another without a hole."""
        first, last = run[0], run[-1]
        row = target[first.offset_in_file - start : last.offset_in_file + last.nbytes - start]
        into = row.view(DTYPES[self._specs[first.index].dtype])
        parts = [self._source(placed.index).reshape(-1) for placed in run]
        np.concatenate(parts, out=into, casting="equiv")

    def _copy_part(self, placed: Placed, low: int, high: int, target: Bytes) -> None:
        spec = self._specs[placed.index]
        value = self.values[placed.index]
        if spec.kind.startswith("torch") and torch_arrays.lies_elsewhere(value):
            dtype, shape, _ = torch_arrays.describe(value)
            self._check_shape(placed.index, shape)
            if dtype != spec.dtype:
                msg = f"{self._paths[placed.index]} changed its dtype to {dtype} while it was being saved"
                raise TypeError(msg)
            torch_arrays.read_part(value, low, high, target)
            return
        source = self._source(placed.index)
        if _is_row(source, spec):
            row = source.reshape(-1).view(np.uint8)
            for at in range(low, high, CHUNK):
                end = min(at + CHUNK, high)
                np.copyto(target[at - low : end - low], row[at:end])
            return
        self._copy_strided(source, spec, low, high, target)

    def _copy_strided(self, source: Array, spec: ArraySpec, low: int, high: int, target: Bytes) -> None:
        """Copy part of an array that does not lie in a row: whole items of its first axis, then the edges."""
        size = ITEMSIZE[spec.dtype]
        into = target.view(DTYPES[spec.dtype])
        begin, end = low // size, high // size
        source = np.atleast_1d(source)
        across = source.size // source.shape[0]
        first, last = -(-begin // across), end // across
        if first >= last:
            into[:] = source.flat[begin:end]
            return
        into[: first * across - begin] = source.flat[begin : first * across]
        into[last * across - begin :] = source.flat[last * across : end]
        rows = max(1, CHUNK // (across * size))
        for at in range(first, last, rows):
            stop = min(at + rows, last)
            part = into[at * across - begin : stop * across - begin]
            np.copyto(part.reshape((stop - at, *source.shape[1:])), source[at:stop], casting="equiv")

    def _source(self, index: int) -> Array:
        value, spec = self.values[index], self._specs[index]
        source = value if spec.kind == "numpy" else as_stored(value)
        self._check_shape(index, source.shape)
        return source

    def _check_shape(self, index: int, shape: tuple[int, ...]) -> None:
        if shape != self._specs[index].shape:
            msg = f"{self._paths[index]} changed its shape to {shape} while it was being saved"
            raise ValueError(msg)


def _offset(placed: Placed) -> int:
    return placed.offset_in_file


def _is_row(source: Array, spec: ArraySpec) -> bool:
    return bool(source.flags.c_contiguous) and source.dtype == DTYPES[spec.dtype]
