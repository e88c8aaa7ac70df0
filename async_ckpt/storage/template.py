"""A manifest of which most is known before the save: only digests, plain values and labels are new. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from async_ckpt.storage import strictjson
from async_ckpt.storage.coverage import check_manifest
from async_ckpt.storage.manifest import seal
from async_ckpt.storage.records import VERSION, FileEntry, Manifest, TensorEntry

__all__ = ["ManifestTemplate"]

_TOGETHER = 256
"""Tensors that are spelled in one call, which no other thread can interrupt."""

_DIGEST = b'"digest":"'


class _Head(Struct, kw_only=True):
    """The fields of a manifest before its files, in their order."""

    version: int = VERSION
    step: int
    attempt: str
    created: float
    expects_report: bool
    metrics: Any
    metadata: Any


class ManifestTemplate:
    """The manifests of all saves of one layout.

    What is written is what :func:`async_ckpt.storage.manifest.encode_manifest` writes, byte for byte. No call
    into C takes long, so other threads get their turn also with a hundred thousand tensors.

    Args:
        files: The tensor files, with the digests of their headers.
        tensors: The tensors, in the order of the leaves, with any digests.
        contents: For each file the indices of its tensors, in the order of their bytes.
        tree: The JSON of the structure, cut where plain values stand; see
            :class:`async_ckpt.state.outline.Skeleton`.

    Attributes:
        files: As given.

    Raises:
        ValueError: :func:`async_ckpt.storage.manifest.encode_manifest` would not take such files and
            tensors, or the contents are not all tensors once.
    """

    def __init__(
        self,
        files: Sequence[FileEntry],
        tensors: Sequence[TensorEntry],
        contents: Iterable[Sequence[int]],
        tree: Sequence[bytes],
    ) -> None:
        self.files = tuple(files)
        self._tree = tuple(tree)
        self._contents = tuple(tuple(indices) for indices in contents)
        self._count = len(tensors)
        order = [index for indices in self._contents for index in indices]
        if sorted(order) != list(range(self._count)) or len(self._contents) != len(self.files):
            msg = "the contents of the files are not the tensors"
            raise ValueError(msg)
        _check(self.files, tensors)
        self._tensors = [
            _spelled(tensors[at : at + _TOGETHER], first=at == 0) for at in range(0, self._count, _TOGETHER)
        ]

    def encode(
        self,
        digests: Sequence[Sequence[str]],
        values: Sequence[Any],
        *,
        step: int,
        attempt: str,
        created: float,
        expects_report: bool,
        metrics: Any,
        metadata: Any,
        listeners: Mapping[str, Any],
    ) -> bytearray:
        """Encode the manifest of one save.

        Args:
            digests: For each file those of its tensors, in the order of their bytes.
            values: What stands in the holes of the tree, as JSON.
            step: This and all others as in :class:`async_ckpt.storage.records.Manifest`.
            attempt: As there.
            created: As there.
            expects_report: As there.
            metrics: As there.
            metadata: As there.
            listeners: As there.

        Returns:
            The bytes of the file, the caller's own.

        Raises:
            ValueError: As :func:`async_ckpt.storage.manifest.encode_manifest`, or the digests or values are
                not as many as there are tensors and holes.
            TypeError: A value is not JSON's.
        """
        listed = dict(listeners)
        values = list(values)
        for opaque in (metrics, metadata, values, listed):
            strictjson.check(opaque)
        if not math.isfinite(created):
            msg = "created is not a time"
            raise ValueError(msg)
        head = _Head(
            step=step,
            attempt=attempt,
            created=created,
            expects_report=expects_report,
            metrics=metrics,
            metadata=metadata,
        )
        parts = [msgspec.json.encode(head)[:-1], b',"files":', msgspec.json.encode(self.files)]
        parts.append(b',"tensors":[')
        parts += self._spell_tensors(self._by_index(digests))
        parts.append(b'],"tree":')
        parts += self._spell_tree(values)
        parts += (b',"listeners":', msgspec.json.encode(listed), b"}")
        return seal(parts)

    def _by_index(self, digests: Sequence[Sequence[str]]) -> list[str]:
        found = [""] * self._count
        for indices, given in zip(self._contents, digests, strict=True):
            for index, digest in zip(indices, given, strict=True):
                found[index] = digest
        return found

    def _spell_tensors(self, digests: list[str]) -> Iterable[bytes]:
        for number, spelled in enumerate(self._tensors):
            text = spelled.copy()
            at = number * _TOGETHER
            text[1::2] = digests[at : at + _TOGETHER]
            yield "".join(text).encode("utf-8")

    def _spell_tree(self, values: Sequence[Any]) -> Iterable[bytes]:
        yield self._tree[0]
        for value, piece in zip(values, self._tree[1:], strict=True):
            yield msgspec.json.encode(value)
            yield piece


def _check(files: tuple[FileEntry, ...], tensors: Sequence[TensorEntry]) -> None:
    check_manifest(
        Manifest(
            step=0,
            attempt="any",
            created=0.0,
            expects_report=False,
            metrics=None,
            metadata=None,
            files=files,
            tensors=tuple(tensors),
            tree=None,
            listeners={},
        )
    )


def _spelled(tensors: Sequence[TensorEntry], *, first: bool) -> list[str]:
    """Spell entries one after the other, with every second piece left for a digest."""
    encode = msgspec.json.Encoder().encode
    pieces = [""] * (2 * len(tensors) + 1)
    before = "" if first else ","
    for number, tensor in enumerate(tensors):
        # Within a string the quotes would be escaped, so this is the field.
        head, name, tail = encode(tensor).partition(_DIGEST)
        pieces[2 * number] = before + (head + name).decode("utf-8")
        before = tail[len(tensor.digest) :].decode("utf-8") + ","
    pieces[-1] = before[:-1]
    return pieces
