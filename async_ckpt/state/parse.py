"""A structure, read from disk, to a tree of nodes that is safe to use.

The grammar::

    node      = plain | array | inline | rng | container
    plain     = what scalars.encode_scalar gives: text, small number, true, false, null, ["float", "0.5"], ...
    array     = ["array", number of the leaf, kind]
    inline    = ["inline", dtype, [dimension, ...], kind, base64]
    rng       = ["rng", kind, node]
    container = ["dict" | "odict", (key, node)*]
              | ["list" | "tuple", node*]
              | ["namedtuple" | "dataclass" | "node", type name, (name, node)*]
              | ["stateful", type name, node]

Type names are shown to people and never looked up. Every leaf is used exactly once, so what is built is never
larger than what was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from async_ckpt.errors import DamagedCheckpointError, StructureMismatchError

from .dtypes import ITEMSIZE
from .paths import components, join, matcher
from .scalars import decode_bytes, decode_key, decode_scalar

__all__ = ["MAX_DEPTH", "SKIPPED", "Node", "choose", "parse", "plain_tree"]

MAX_DEPTH = 100
"""Levels of containers; each costs a few frames of the interpreter's stack, which others need too."""

# A generator's state is a small tree below its leaf.
_READ_DEPTH = MAX_DEPTH + 8
_MAX_NUMBER = 2**53
_MAX_DIMENSIONS = 64

MAPPINGS = frozenset({"dict", "odict"})
SEQUENCES = frozenset({"list", "tuple"})
NAMED = frozenset({"namedtuple", "dataclass", "node"})


class Node:
    """One place in a saved tree.

    Attributes:
        tag: ``plain``, ``array``, ``inline``, ``rng``, ``skipped``, or the container's tag.
        label: The kind of an array, or the type's name; only ever shown.
        slots: The keys, names or indices of the children.
        children: The children.
        value: The plain value, the leaf's number, the inline array, or the generator (:mod:`.rng`).
    """

    __slots__ = ("children", "label", "slots", "tag", "value")

    def __init__(
        self,
        tag: str,
        *,
        label: str = "",
        slots: tuple[Any, ...] = (),
        children: tuple[Node, ...] = (),
        value: Any = None,
    ) -> None:
        self.tag = tag
        self.label = label
        self.slots = slots
        self.children = children
        self.value = value

    @property
    def is_leaf(self) -> bool:
        """Whether it holds a value rather than children."""
        return self.tag in ("plain", "array", "inline", "rng", "skipped")

    def places(self, path: str) -> Iterator[tuple[str, Node]]:
        """Give each child with its path; ``path`` is this node's own."""
        if self.tag == "stateful":
            return iter([(path, self.children[0])])
        parts = self.slots if self.tag == "node" else components(self.slots)
        return zip([join(path, part) for part in parts], self.children, strict=True)

    def leaves(self) -> Iterator[int]:
        """Give the numbers of the leaves at or below it."""
        if self.tag == "array":
            yield self.value
        for child in self.children:
            yield from child.leaves()

    def spots(self, path: str) -> Iterator[str]:
        """Give the paths of the values at or below it, and of containers that hold nothing."""
        if self.is_leaf or (not self.children and self.tag != "stateful"):
            yield path
        for place, child in self.places(path):
            yield from child.spots(place)


SKIPPED = Node("skipped")
"""Stands in a sequence for what was not chosen."""


class _Parser:
    def __init__(self, count: int) -> None:
        self.unused = set(range(count))

    def node(self, data: Any, depth: int) -> Node:
        if not isinstance(data, list):
            return Node("plain", value=decode_scalar(data))
        if depth > _READ_DEPTH:
            msg = "nested too deeply"
            raise ValueError(msg)
        tag = data[0] if data else None
        if not isinstance(tag, str):
            msg = "a node without a tag"
            raise ValueError(msg)
        rest = data[1:]
        if tag == "array":
            return self._array(*_exactly(rest, 2))
        if tag in SEQUENCES:
            children = tuple(self.node(item, depth + 1) for item in rest)
            return Node(tag, slots=tuple(range(len(children))), children=children)
        if tag in MAPPINGS:
            return self._pairs(tag, "", rest, decode_key, depth)
        if tag in NAMED and rest:
            return self._pairs(tag, _text(rest[0]), rest[1:], _text, depth)
        if tag == "stateful":
            label, child = _exactly(rest, 2)
            return Node(tag, label=_text(label), slots=(0,), children=(self.node(child, depth + 1),))
        return _leaf(tag, rest, data, depth)

    def _pairs(self, tag: str, label: str, rest: list[Any], read: Callable[[Any], Any], depth: int) -> Node:
        if len(rest) % 2:
            msg = f"a {tag} with a key and no value"
            raise ValueError(msg)
        keys = tuple(read(key) for key in rest[::2])
        if len(dict.fromkeys(keys)) != len(keys):
            msg = f"a {tag} with equal keys"
            raise ValueError(msg)
        children = tuple(self.node(item, depth + 1) for item in rest[1::2])
        return Node(tag, label=label, slots=keys, children=children)

    def _array(self, index: Any, kind: Any) -> Node:
        if type(index) is not int or index not in self.unused:
            msg = f"a leaf that does not exist or was used before: {index!r:.40}"
            raise ValueError(msg)
        self.unused.discard(index)
        return Node("array", label=_text(kind), value=index)


def _leaf(tag: str, rest: list[Any], data: Any, depth: int) -> Node:
    if tag == "inline":
        return _inline(*_exactly(rest, 4))
    if tag == "rng":
        from .rng import Rng  # noqa: PLC0415 - numpy, which most structures do without

        kind, state = _exactly(rest, 2)
        inner = _Parser(0).node(state, depth + 1)
        return Node("rng", value=Rng(kind, plain_tree(inner)))
    return Node("plain", value=decode_scalar(data))


def _exactly(items: list[Any], count: int) -> list[Any]:
    if len(items) != count:
        msg = "a node of a wrong length"
        raise ValueError(msg)
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str):
        msg = "text expected"
        raise ValueError(msg)
    return value


def _inline(dtype: Any, shape: Any, kind: Any, text: Any) -> Node:
    if not isinstance(dtype, str) or dtype not in ITEMSIZE or not isinstance(shape, list):
        msg = "a malformed inline array"
        raise ValueError(msg)
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= _MAX_NUMBER for n in shape):
        msg = "a malformed shape"
        raise ValueError(msg)
    from .arrays import ArraySpec, from_buffer  # noqa: PLC0415 - as above

    spec = ArraySpec(dtype, tuple(shape), _text(kind))
    return Node(
        "inline", label=spec.kind, value=from_buffer(spec, bytearray(decode_bytes(text)), writeable=True)
    )


def plain_tree(node: Node) -> Any:
    """Build a tree without leaves of its own: plain values, inline arrays, dicts, lists, tuples."""
    if node.tag in MAPPINGS:
        return {key: plain_tree(child) for key, child in zip(node.slots, node.children, strict=True)}
    if node.tag in SEQUENCES:
        return [plain_tree(child) for child in node.children]
    return node.value


def parse(structure: Any, count: int) -> Node:
    """Read a structure from anywhere.

    Args:
        structure: Decoded JSON.
        count: How many leaves there are.

    Raises:
        DamagedCheckpointError: It is not a structure of exactly these leaves.
    """
    parser = _Parser(count)
    try:
        root = parser.node(structure, 0)
    except ValueError as error:
        msg = f"the tree structure is malformed: {error}"
        raise DamagedCheckpointError(msg) from error
    if parser.unused:
        msg = f"the tree structure leaves out {len(parser.unused)} of {count} leaves"
        raise DamagedCheckpointError(msg)
    return root


def choose(root: Node, only: Any) -> Node | None:
    """Keep what one or several globs choose; None if that is nothing.

    What is not chosen is dropped from mappings and is ``SKIPPED`` in sequences.

    Raises:
        StructureMismatchError: A glob chooses nothing; ``missing`` names it.
    """
    if only is None:
        return root
    matches, hits = matcher(only)

    def walk(node: Node, path: str) -> Node | None:
        chosen = matches(path)
        if node.is_leaf or not node.children:
            return node if chosen else None
        kept = [
            (slot, walk(child, place))
            for slot, (place, child) in zip(node.slots, node.places(path), strict=True)
        ]
        if all(child is None for _, child in kept):
            return None
        if node.tag in ("dict", "odict", "dataclass"):
            kept = [(slot, child) for slot, child in kept if child is not None]
        children = tuple(SKIPPED if child is None else child for _, child in kept)
        return Node(node.tag, label=node.label, slots=tuple(slot for slot, _ in kept), children=children)

    found = walk(root, "")
    idle = [glob for glob, hit in hits.items() if not hit]
    if idle:
        msg = f"nothing in the checkpoint matches {', '.join(map(repr, idle))}"
        raise StructureMismatchError(msg, missing=idle)
    return found
