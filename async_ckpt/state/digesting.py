"""xxh3_128 of every header and every tensor, over the bytes as they will lie on disk."""

from __future__ import annotations

from typing import NamedTuple

import xxhash

from .layout import FilePlan

__all__ = ["Digests", "FileDigester", "FileDigests"]


class FileDigests(NamedTuple):
    """In hex: of a file's header, and of its tensors in the order of the bytes."""

    header: str
    tensors: tuple[str, ...]


class FileDigester:
    """Digests one file, given from its first byte to its last in pieces of any size."""

    def __init__(self, file: FilePlan) -> None:
        self._tensors = file.tensors
        self._data = file.header_bytes
        self._header = xxhash.xxh3_128()
        self._at = 0
        self._digests: list[str] = []
        self._open: xxhash.xxh3_128 | None = None

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes."""
        start, stop = self._at, self._at + len(piece)
        self._at = stop
        if start < self._data:
            self._header.update(piece[: self._data - start])
        digests, tensors = self._digests, self._tensors
        for number in range(len(digests), len(tensors)):
            _, begin, nbytes = tensors[number]
            end = begin + nbytes
            if self._open is None and begin >= start and end <= stop:
                digests.append(xxhash.xxh3_128_hexdigest(piece[begin - start : end - start]))
                continue
            if begin >= stop:
                return
            if self._open is None:
                self._open = xxhash.xxh3_128()
            self._open.update(piece[max(begin, start) - start : min(end, stop) - start])
            if end > stop:
                return
            digests.append(self._open.hexdigest())
            self._open = None

    def result(self) -> FileDigests:
        """The digests, once every byte was fed."""
        return FileDigests(self._header.hexdigest(), tuple(self._digests))


Digests = tuple[FileDigests, ...]
"""Of all files, in the order of the layout."""
