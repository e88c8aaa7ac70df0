"""A manifest in the spelling of this package, decoded tensor by tensor. Pure.

One call that decodes a hundred thousand tensors keeps every other thread waiting; many small ones do not.
What is spelled as we spell it can be cut without parsing it first, as no quote stands bare in a string.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from async_ckpt.storage.records import Manifest, TensorEntry

__all__ = ["decode_in_pieces", "may_exceed_64_bits"]

_PIECE = 1 << 16
"""Bytes of tensors that are decoded in one call."""

_TENSORS = b',"tensors":['
_NEXT = b'},{"path":'
_REST = b'],"tree":'
_NO_REST = b'],"tree":null,"listeners":{}}'
_LONG_NUMBER = re.compile(rb"[\[:,]-?[0-9]{19}")


class _Rest(Struct, forbid_unknown_fields=True):
    """What follows the tensors."""

    tree: Any
    listeners: dict[str, Any]


def may_exceed_64_bits(body: bytes) -> bool:
    """Say whether an integer in a record of our spelling may be one that a strict reader refuses.

    The decoder reads integers of any length where a record takes any value.
    """
    return _LONG_NUMBER.search(body) is not None


def decode_in_pieces(body: bytes) -> Manifest | None:
    """Decode a manifest; None unless every byte of it is as :func:`msgspec.json.encode` would write it.

    What is given back has been judged by its types. What is not, for whatever reason, is for a reader that
    takes any spelling.
    """
    start = body.find(_TENSORS) + len(_TENSORS)
    end = body.find(_REST, start)
    if start < len(_TENSORS) or end < 0:
        return None
    try:
        # Were the cut anywhere but at the top level, these would not be balanced.
        around = body[:start] + _NO_REST, b"{" + body[end + 2 :]
        if any(map(may_exceed_64_bits, around)):
            return None
        head, rest = _exactly(around[0], Manifest), _exactly(around[1], _Rest)
        tensors: list[TensorEntry] = []
        while start < end:
            cut = body.find(_NEXT, min(start + _PIECE, end), end)
            stop = end if cut < 0 else cut + 1
            tensors += _exactly(b"[" + body[start:stop] + b"]", list[TensorEntry])
            start = stop + 1
    except (ValueError, RecursionError):
        return None
    manifest: Manifest = msgspec.structs.replace(
        head, tensors=tuple(tensors), tree=rest.tree, listeners=rest.listeners
    )
    return manifest


def _exactly(data: bytes, kind: Any) -> Any:
    found = msgspec.json.decode(data, type=kind)
    if msgspec.json.encode(found) != data:
        raise ValueError("another spelling")
    return found
