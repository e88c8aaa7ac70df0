"""Where every tensor lies in which file, and every file in the arena. Pure.

A file's image in memory is the file, byte for byte: header, then tensors without holes. Headers are padded so
that the data starts on a page, and so does every image, which is what ``O_DIRECT`` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from async_ckpt.storage.names import shard_name
from async_ckpt.storage.safetensors import encode_header

from .dtypes import ITEMSIZE, PAGE, checked_nbytes

__all__ = ["FilePlan", "Layout", "Placed", "TensorSpec", "plan"]


class TensorSpec(NamedTuple):
    """A tensor to be stored: the group whose files it goes to, its name there, and its size in bytes."""

    group: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Placed(NamedTuple):
    """A tensor's place in its file: its index among the specs, and bytes from the start of the file."""

    index: int  # type: ignore[assignment]  # nobody searches a place
    offset_in_file: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file.

    Attributes:
        name: Its name, one safe path component.
        size: Its length in bytes, header included.
        arena_offset: Where its image starts in the arena, a multiple of the page.
        header: Its first bytes, padding included.
        header_bytes: Their number, a multiple of the page; the data starts there.
        tensors: What it holds, in the order of the bytes.
    """

    name: str
    size: int
    arena_offset: int
    header: bytes
    header_bytes: int
    tensors: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All files of a checkpoint.

    Attributes:
        files: In the order of the groups' first tensors.
        total: Bytes of arena they take, a multiple of the page; zero without files.
        offsets: For each tensor, by index, where it starts in the arena.
    """

    files: tuple[FilePlan, ...]
    total: int
    offsets: tuple[int, ...]


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def _check(specs: Sequence[TensorSpec]) -> None:
    seen: set[tuple[str, str]] = set()
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    for group, name, dtype, shape, nbytes in specs:
        size = sizes.get((dtype, shape))
        if size is None:
            size = sizes[dtype, shape] = checked_nbytes(dtype, shape)
        if nbytes != size:
            msg = f"{group}/{name}: {nbytes} bytes do not make {dtype} {shape}"
            raise ValueError(msg)
        if not name or name == "__metadata__" or (group, name) in seen:
            msg = f"{group}/{name}: a tensor's name must be new, not empty and not __metadata__"
            raise ValueError(msg)
        seen.add((group, name))


def _shards(indices: list[int], specs: Sequence[TensorSpec], limit: int | None) -> list[list[int]]:
    """Cut a group into files of at most ``limit`` bytes of data; a larger tensor gets a file of its own."""
    shards: list[list[int]] = [[]]
    used = 0
    for index in indices:
        size = specs[index].nbytes
        if limit is not None and shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(index)
        used += size
    return shards


def plan(
    specs: Sequence[TensorSpec],
    *,
    max_shard_bytes: int | None = None,
    align: int = PAGE,
) -> Layout:
    """Place every tensor.

    Within a file wider elements come first, so that each tensor is aligned to its elements without a hole.

    Args:
        specs: The tensors, in the order of the leaves.
        max_shard_bytes: Bytes of data per file; None puts each group into one file.
        align: Bytes; headers and images are padded to a multiple of it.

    Raises:
        ValueError: A spec contradicts itself, a name is taken, or a limit is not positive.
    """
    if max_shard_bytes is not None and max_shard_bytes < 1:
        msg = f"max_shard_bytes must be positive, not {max_shard_bytes}"
        raise ValueError(msg)
    _check(specs)
    groups: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        groups.setdefault(spec.group, []).append(index)
    files: list[FilePlan] = []
    offsets = [0] * len(specs)
    at = 0
    for group, indices in groups.items():
        indices.sort(key=lambda index: -ITEMSIZE[specs[index].dtype])
        shards = _shards(indices, specs, max_shard_bytes)
        for number, shard in enumerate(shards, 1):
            file = _file(shard_name(group, number, len(shards)), at, shard, specs, align)
            files.append(file)
            for index, offset, _ in file.tensors:
                offsets[index] = at + offset
            at += _up(file.size, align)
    return Layout(tuple(files), at, tuple(offsets))


def _file(filename: str, at: int, shard: list[int], specs: Sequence[TensorSpec], align: int) -> FilePlan:
    header = encode_header(_entries(shard, specs), align=align)
    data = end = len(header)
    placed = []
    for index in shard:
        nbytes = specs[index].nbytes
        placed.append(Placed(index, end, nbytes))
        end += nbytes
    return FilePlan(filename, end, at, header, data, tuple(placed))


def _entries(
    shard: list[int], specs: Sequence[TensorSpec]
) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    begin = 0
    for index in shard:
        _, name, dtype, shape, nbytes = specs[index]
        yield name, dtype, shape, begin, begin + nbytes
        begin += nbytes
