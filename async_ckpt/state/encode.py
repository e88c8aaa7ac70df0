"""A live tree to its structure: one walk that captures plain values and hands arrays to a sink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from async_ckpt.errors import UnsupportedLeafError

from . import rng
from .arrays import ArraySpec, as_bytes_view, describe, is_array
from .dtypes import Json, UnsaveableError
from .nodes import Branch, is_stateful, open_node, words
from .parse import MAX_DEPTH
from .paths import join
from .scalars import PLAIN_TYPES, encode_bytes, encode_key, encode_scalar

__all__ = ["INLINE_LIMIT", "Encoder", "Sink", "inline", "unsupported"]

INLINE_LIMIT = 16 * 2**20
"""Bytes of one array that may stand in JSON."""

_LABELLED = frozenset({"namedtuple", "dataclass", "node"})
_SIZED = frozenset({str, bytes, bytearray})

Sink: TypeAlias = Callable[[str, Any, ArraySpec], Json]
"""Takes in an array (path, value, spec) and gives what stands for it in the structure."""


def unsupported(path: str, what: str) -> UnsupportedLeafError:
    """Make the error for the value at ``path``."""
    return UnsupportedLeafError(f"{path or 'the root of the state'}: cannot save {what}", path=path)


def inline(path: str, value: Any, spec: ArraySpec) -> Json:
    """Put a small array into the structure itself.

    Raises:
        UnsupportedLeafError: It is larger than ``INLINE_LIMIT``.
    """
    if spec.nbytes > INLINE_LIMIT:
        raise unsupported(path, f"an array of {spec.nbytes} bytes here; it belongs into the training state")
    return ["inline", spec.dtype, list(spec.shape), spec.kind, encode_bytes(as_bytes_view(value).tobytes())]


class Encoder:
    """One walk over a live tree.

    Args:
        namespace: The optree namespace in which nodes are looked up.
        sink: Takes the arrays.
        large: Text and bytes longer than this go to the sink as well; None never sends any.
    """

    def __init__(self, namespace: str, sink: Sink, *, large: int | None = None) -> None:
        self._namespace = namespace
        self._sink = sink
        self._large = large
        self._open: set[int] = set()

    def encode(self, value: Any) -> Json:
        """Give the structure of ``value``.

        Raises:
            UnsupportedLeafError: It holds something that cannot be saved; ``path`` says where.
        """
        try:
            return self._encode(value, "", 0)
        except RecursionError:
            # Its traceback is a thousand equal lines; the caller's own stack was deep already.
            msg = "the state is nested too deeply for the stack that is left"
            raise UnsupportedLeafError(msg, path="") from None

    def _encode(self, value: Any, path: str, depth: int) -> Json:
        try:
            if type(value) in PLAIN_TYPES:
                return self._plain(value, path)
            if is_array(value):
                return self._sink(path, value, describe(value))
            if isinstance(value, np.generic):
                return encode_scalar(value)
            if rng.is_rng(value):
                inner = Encoder(self._namespace, inline)
                return ["rng", rng.kind_of(value), inner.encode(rng.capture(value))]
        except UnsaveableError as error:
            raise unsupported(path, str(error)) from None
        if depth >= MAX_DEPTH:
            raise unsupported(path, f"a tree of more than {MAX_DEPTH} levels")
        if id(value) in self._open:
            raise unsupported(path, f"a {type(value).__qualname__} that holds itself")
        self._open.add(id(value))
        try:
            if is_stateful(value):
                return [
                    "stateful",
                    type(value).__qualname__,
                    self._encode(_ask(value, path), path, depth + 1),
                ]
            branch = open_node(value, self._namespace)
            if branch is None:
                raise unsupported(path, words(value))
            return self._branch(branch, path, depth + 1)
        finally:
            self._open.discard(id(value))

    def _plain(self, value: Any, path: str) -> Json:
        if self._large is not None and type(value) in _SIZED and len(value) > self._large:
            # A copy: the caller may go on appending to a bytearray, and numpy would lock its size.
            captured = value if type(value) is str else bytes(value)
            return self._sink(path, captured, describe(value))
        return encode_scalar(value)

    def _branch(self, branch: Branch, path: str, depth: int) -> Json:
        out: list[Json] = [branch.tag]
        if branch.tag in _LABELLED:
            out.append(branch.label)
        keyed = branch.tag not in ("list", "tuple")
        names = branch.parts if branch.tag == "node" else branch.slots
        for name, part, child in zip(names, branch.parts, branch.children, strict=True):
            place = join(path, part)
            if keyed:
                try:
                    out.append(name if type(name) is str and name.isascii() else encode_key(name))
                except UnsaveableError as error:
                    raise unsupported(place, str(error)) from None
            out.append(self._encode(child, place, depth))
        return out


def _ask(value: Any, path: str) -> Any:
    try:
        return value.state_dict()
    except Exception as error:
        error.add_note(f"raised by state_dict() of the {type(value).__qualname__} at {path or 'the root'}")
        raise
