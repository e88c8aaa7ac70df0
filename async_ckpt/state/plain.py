"""Small states (of listeners, in metrics, in metadata) to JSON and back, arrays included."""

from __future__ import annotations

from typing import Any

from .build import build
from .dtypes import Json
from .parse import parse

__all__ = ["decode_plain", "encode_plain"]


def encode_plain(value: Any, *, namespace: str = "") -> Json:
    """Give a small state as JSON; the same kinds are taken as in a training state.

    Raises:
        UnsupportedLeafError: It holds something that cannot be saved, or an array of more than 16 MiB.
    """
    from .encode import Encoder, inline  # noqa: PLC0415 - who only reads needs no numpy

    return Encoder(namespace, inline).encode(value)


def decode_plain(data: Any) -> Any:
    """Undo :func:`encode_plain`, with plain containers, as :func:`async_ckpt.state.tree.unflatten` does.

    Args:
        data: Decoded JSON from anywhere.

    Raises:
        DamagedCheckpointError: It is not something ``encode_plain`` returns.
    """
    return build(parse(data, 0), lambda _: None)
