"""A live tree to its structure: one walk that captures plain values and hands arrays to a sink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from async_ckpt.errors import UnsupportedLeafError

from . import rng
from .arrays import Array, ArraySpec, as_bytes_view, describe, is_array, numpy_spec
from .dtypes import Json, UnsaveableError
from .nodes import Branch, is_stateful, open_node, words
from .parse import MAX_DEPTH
from .scalars import PLAIN_TYPES, SMALL, encode_bytes, encode_key, encode_scalar

__all__ = [
    "INLINE_LIMIT",
    "LARGE",
    "SIZED",
    "Ask",
    "Encoder",
    "Opened",
    "Sink",
    "captured",
    "inline",
    "is_large",
    "state_dict",
    "unsupported",
]

INLINE_LIMIT = 16 * 2**20
"""Bytes of one array that may stand in JSON."""

# Neither an array nor anything else, and without attributes: most values are told by one look.
_ONLY_CONTAINERS = frozenset({dict, list, tuple})
_LABELLED = frozenset({"namedtuple", "dataclass", "node"})

LARGE = 1024
"""Characters or bytes; longer text and bytes become tensors instead of burdening the manifest."""

SIZED = frozenset({str, bytes, bytearray})
"""What may be large."""

Opened: TypeAlias = tuple[type, Branch | None]
"""A container that was opened: its type, and what was found; None if it was asked for its state, or is a row
of plain values."""

Ask: TypeAlias = Callable[[Any], Any]
"""Gives the state of an object that has ``state_dict()``."""

Sink: TypeAlias = Callable[[str, Any, ArraySpec], Json]
"""Takes in an array (path, value, spec) and gives what stands for it in the structure."""


def unsupported(path: str, what: str) -> UnsupportedLeafError:
    """Make the error for the value at ``path``."""
    return UnsupportedLeafError(f"{path or 'the root of the state'}: cannot save {what}", path=path)


def is_large(value: str | bytes | bytearray) -> bool:
    """Say whether a text is kept as a tensor."""
    return len(value) > LARGE


def captured(value: str | bytes | bytearray) -> str | bytes:
    """Give a large text as it stands now; as bytes, for numpy would lock the size of a bytearray."""
    return value if isinstance(value, str) else bytes(value)


def state_dict(value: Any) -> Any:
    """Ask an object for its state."""
    return value.state_dict()


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
        texts: Whether large text and bytes go to the sink as well.
        ask: Gives the state of an object that has ``state_dict()``.
        opened: Where to note the containers that are opened, each before its children.
    """

    def __init__(
        self,
        namespace: str,
        sink: Sink,
        *,
        texts: bool = False,
        ask: Ask = state_dict,
        opened: list[Opened] | None = None,
    ) -> None:
        self._namespace = namespace
        self._sink = sink
        self._texts = texts
        self._ask = ask
        self._opened = opened
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

    def encode_at(self, value: Any, depth: int) -> Json:
        """Give the structure of a part of a tree, ``depth`` levels below its root.

        Raises:
            UnsupportedLeafError: As :meth:`encode`; the path begins at ``value``.
            RecursionError: It is nested too deeply for the stack that is left.
        """
        return self._encode(value, "", depth)

    def _encode(self, value: Any, path: str, depth: int) -> Json:
        if type(value) not in _ONLY_CONTAINERS:
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
            return self._container(value, path, depth + 1)
        finally:
            self._open.discard(id(value))

    def _container(self, value: Any, path: str, depth: int) -> Json:
        if self._is_row(value):
            return self._row(value)
        if type(value) not in _ONLY_CONTAINERS and is_stateful(value):
            self._note(value, None)
            inner = self._state_of(value, path)
            return ["stateful", type(value).__qualname__, self._encode(inner, path, depth)]
        branch = open_node(value, self._namespace)
        if branch is None:
            raise unsupported(path, words(value))
        self._note(value, branch)
        return self._branch(branch, path, depth)

    def _note(self, value: Any, branch: Branch | None) -> None:
        if self._opened is not None:
            self._opened.append((type(value), branch))

    def _state_of(self, value: Any, path: str) -> Any:
        try:
            return self._ask(value)
        except Exception as error:
            place = path or "the root"
            error.add_note(f"raised by state_dict() of the {type(value).__qualname__} at {place}")
            raise

    def _array(self, value: Array, path: str) -> Json:
        try:
            return self._sink(path, value, numpy_spec(value.dtype, value.shape))
        except UnsaveableError as error:
            raise unsupported(path, str(error)) from None

    def _is_row(self, value: Any) -> bool:
        """Say whether it is a sequence of plain values that all stay in the structure."""
        return (
            (type(value) is list or type(value) is tuple)
            and PLAIN_TYPES.issuperset(map(type, value))
            and not (self._texts and any(type(item) in SIZED and is_large(item) for item in value))
        )

    def _row(self, value: Any) -> Json:
        """Encode it without a look at places: a history may have many thousands."""
        self._note(value, None)
        out: list[Json] = [type(value).__name__]
        out += [item if type(item) is int and 0 <= item < SMALL else encode_scalar(item) for item in value]
        return out

    def _plain(self, value: Any, path: str) -> Json:
        if self._texts and type(value) in SIZED and is_large(value):
            return self._sink(path, captured(value), describe(value))
        return encode_scalar(value)

    def _branch(self, branch: Branch, path: str, depth: int) -> Json:
        out: list[Json] = [branch.tag]
        if branch.tag in _LABELLED:
            out.append(branch.label)
        keyed = branch.tag not in ("list", "tuple")
        names = branch.parts if branch.tag == "node" else branch.slots
        above = f"{path}/" if path else ""
        for name, part, child in zip(names, branch.parts, branch.children, strict=True):
            place = above + part
            if keyed:
                try:
                    out.append(name if type(name) is str and name.isascii() else encode_key(name))
                except UnsaveableError as error:
                    raise unsupported(place, str(error)) from None
            # Spelled out, for nearly all children are arrays.
            if type(child) is np.ndarray:
                out.append(self._array(child, place))
            else:
                out.append(self._encode(child, place, depth))
        return out
