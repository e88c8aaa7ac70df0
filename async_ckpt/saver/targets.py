"""Where the leaves of a checkpoint go: into new arrays, or into those of a living state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from async_ckpt.state.arrays import Bytes, stored
from async_ckpt.state.build import build
from async_ckpt.state.fresh import fresh_row
from async_ckpt.state.into import IntoPlan
from async_ckpt.state.parse import choose, parse
from async_ckpt.storage.records import Manifest

__all__ = ["Fresh", "Into", "Target"]


class Target(Protocol):
    """Where the leaves of a checkpoint go. Each leaf is asked for by one thread."""

    @property
    def indices(self) -> Iterable[int]:
        """The numbers of the leaves to be read."""
        ...

    def memory(self, index: int) -> Bytes:
        """The writable row that leaf ``index`` ends in."""
        ...

    def in_place(self, index: int) -> bool:
        """Whether that row is an array the caller already has."""
        ...

    def finish(self) -> Any:
        """The state, once everything is read."""
        ...


class Fresh:
    """New arrays in plain containers."""

    def __init__(self, manifest: Manifest, only: str | tuple[str, ...] | None) -> None:
        self._root = choose(parse(manifest.tree, len(manifest.tensors)), only)
        self.indices = () if self._root is None else tuple(self._root.leaves())
        self._tensors = manifest.tensors
        self._rows: dict[int, Bytes] = {}

    def memory(self, index: int) -> Bytes:
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = fresh_row(self._tensors[index].bytes)
        return row

    def in_place(self, index: int) -> bool:  # noqa: ARG002 - none of them is
        return False

    def finish(self) -> Any:
        return None if self._root is None else build(self._root, self._array)

    def _array(self, index: int) -> Any:
        entry = self._tensors[index]
        return stored(entry.dtype, entry.shape, self.memory(index), writeable=True)


class Into:
    """The arrays of a living state."""

    def __init__(self, plan: IntoPlan, state: Any) -> None:
        self.indices = plan.indices
        self._plan = plan
        self._state = state

    def memory(self, index: int) -> Bytes:
        return self._plan.memory(index)

    def in_place(self, index: int) -> bool:
        return self._plan.in_place(index)

    def finish(self) -> Any:
        self._plan.apply()
        return self._state
