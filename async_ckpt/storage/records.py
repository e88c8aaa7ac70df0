"""The records of a checkpoint, typed so that reading one is judging it. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

__all__ = ["VERSION", "FileEntry", "Manifest", "Report", "TensorEntry"]

VERSION = 1
"""Of the format that this release writes."""

Size = Annotated[int, Meta(ge=0, le=2**53)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Attempt = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_.-]{1,64}\Z")]
Shape = Annotated[tuple[Size, ...], Meta(max_length=64)]


class FileEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor file.

    Attributes:
        name: Its name in the checkpoint's directory.
        bytes: Its size.
        header_bytes: Bytes before the first tensor, the length prefix included.
        header_digest: xxh3_128 of those bytes, in hex.
    """

    name: str
    bytes: Size
    header_bytes: Size
    header_digest: Digest


class TensorEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One tensor. Many of them are read at once, so digests and kinds are judged together, after decoding.

    Attributes:
        path: Its place in the state's tree; unique in the manifest.
        name: What the safetensors header calls it; unique in its file.
        file: Index into :attr:`Manifest.files`.
        dtype: The safetensors name of its element type.
        shape: Its dimensions; empty for a scalar.
        offset: Where its first byte lies, from the start of the file.
        bytes: Its length.
        digest: xxh3_128 of its bytes, in hex.
        kind: What it comes back as, such as ``numpy`` or ``torch``.
    """

    path: str
    name: str
    file: Size
    dtype: str
    shape: Shape
    offset: Size
    bytes: Size
    digest: str
    kind: str


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a checkpoint consists of.

    Attributes:
        version: Of the format.
        step: The global step it was taken at.
        attempt: The id of the attempt that wrote it.
        created: When, in seconds since the epoch; shown, never compared.
        expects_report: Whether ``report.json`` is to follow.
        metrics: JSON of the caller's choice; so are ``metadata``, ``tree`` and ``listeners``' values.
        metadata: What the user attached.
        files: The tensor files.
        tensors: The tensors, each in one of the files.
        tree: The structure of the state, with its plain values.
        listeners: States of the listeners, by key.
    """

    version: Annotated[int, Meta(ge=1, le=VERSION)] = VERSION
    step: Size
    attempt: Attempt
    created: Annotated[float, Meta(ge=0)]
    expects_report: bool
    metrics: Any
    metadata: Any
    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]
    tree: Any
    listeners: dict[str, Any]


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``after_save`` left behind.

    Attributes:
        version: Of the format.
        step: The checkpoint's step.
        votes: One JSON object per vote.
        metrics: JSON; what the listeners reported.
        listeners: States of the listeners after ``after_save``, by key.
    """

    version: Annotated[int, Meta(ge=1, le=VERSION)] = VERSION
    step: Size
    votes: list[dict[str, Any]]
    metrics: Any
    listeners: dict[str, Any]
