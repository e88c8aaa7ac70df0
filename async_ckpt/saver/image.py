"""A staged state: the arena's bytes, and what lies where in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from async_ckpt.state import staging
from async_ckpt.state.arrays import ArraySpec
from async_ckpt.state.dtypes import Json
from async_ckpt.state.layout import FilePlan, Layout, TensorSpec
from async_ckpt.storage.records import FileEntry, TensorEntry

__all__ = ["Image", "Label"]


@dataclass(frozen=True, slots=True)
class Label:
    """A tensor without its value: what the manifest says about it besides where it lies."""

    path: str
    name: str
    spec: ArraySpec


@dataclass(frozen=True, slots=True)
class Image:
    """Everything that is written, in memory.

    Attributes:
        layout: Which tensor lies where.
        specs: One per tensor, in the order of the leaves.
        labels: Beside them.
        structure: The tree around them.
        memory: The arena's bytes, at least ``layout.total`` of them.
    """

    layout: Layout
    specs: Sequence[TensorSpec]
    labels: Sequence[Label]
    structure: Json
    memory: memoryview

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.layout.files)

    def file(self, plan: FilePlan) -> memoryview:
        """The bytes of one file."""
        return self.memory[plan.arena_offset : plan.arena_offset + plan.size]

    def view(self) -> Any:
        """The state in fresh containers, its arrays read-only over the staged bytes."""
        return staging.view(self.structure, self.layout, self.specs, self.memory)

    def entries(
        self, stopped: Callable[[], bool]
    ) -> tuple[tuple[FileEntry, ...], tuple[TensorEntry, ...]] | None:
        """Digest every byte; None if ``stopped`` said so on the way. Runs in a thread."""
        found = staging.digests(self.layout, self.memory, stopped=stopped)
        if found is None:
            return None
        files = tuple(
            FileEntry(name=plan.name, bytes=plan.size, header_bytes=plan.header_bytes, header_digest=header)
            for plan, header in zip(self.layout.files, found.headers, strict=True)
        )
        placed = {
            place.index: (number, place.offset_in_file)
            for number, plan in enumerate(self.layout.files)
            for place in plan.tensors
        }
        tensors = tuple(
            TensorEntry(
                path=label.path,
                name=label.name,
                file=placed[index][0],
                dtype=label.spec.dtype,
                shape=label.spec.shape,
                offset=placed[index][1],
                bytes=self.specs[index].nbytes,
                digest=found.tensors[index],
                kind=label.spec.kind,
            )
            for index, label in enumerate(self.labels)
        )
        return files, tensors
