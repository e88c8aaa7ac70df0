"""What stays the same from one save of a state to the next: names, dtypes, shapes, the tree around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from .arrays import ArraySpec
from .dtypes import Json
from .layout import TensorSpec
from .paths import slugs

__all__ = ["Outline", "Skeleton", "children_at", "is_leaf"]

_SHARED_GROUP = "state"
_GROUPING = frozenset({"dict", "odict", "namedtuple", "dataclass"})

_HOLE: Any = object()

# Where the children of a container stand in its list: first position, and the step from one to the next.
_CHILDREN = {
    "dict": (2, 2),
    "odict": (2, 2),
    "list": (1, 1),
    "tuple": (1, 1),
    "namedtuple": (3, 2),
    "dataclass": (3, 2),
    "node": (3, 2),
    "stateful": (2, 1),
}


class _Frame:
    """A container above an array: its list, with what is to be filled in at the given positions."""

    __slots__ = ("filled", "items")

    def __init__(self, items: list[Json], filled: list[tuple[int, _Frame | None]]) -> None:
        self.items = items
        self.filled = filled


class Skeleton:
    """A structure without its plain values.

    Where a largest part without any array stood, such as a number or a table of settings, there is a hole.

    Args:
        structure: A complete one.

    Attributes:
        holes: How many there are.
    """

    __slots__ = ("_frame", "_pieces", "_root", "holes")

    def __init__(self, structure: Json) -> None:
        self.holes = 0
        self._pieces: tuple[bytes, ...] | None = None
        found, self._frame = (True, None) if is_leaf(structure) else self._split(structure)
        if not found:
            self.holes = 1
        self._root = structure if found and self._frame is None else None

    def _split(self, node: Any) -> tuple[bool, _Frame | None]:
        """Say whether there are arrays below, and give what has to be filled in if so."""
        where = children_at(node)
        if where is None:
            return False, None
        before = self.holes
        found = False
        filled: list[tuple[int, _Frame | None]] = []
        for at in where:
            child = node[at]
            # Spelled out, for nearly all children are leaves.
            if type(child) is list and child[0] == "array":
                found = True
                continue
            below, frame = self._split(child)
            if not below:
                self.holes += 1
            if frame is not None or not below:
                filled.append((at, frame))
            found = found or below
        if not found:
            self.holes = before
            return False, None
        if not filled:
            return True, None
        items = list(node)
        for at, _ in filled:
            items[at] = None
        return True, _Frame(items, filled)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The text around the holes as JSON, in the spelling of :func:`msgspec.json.encode`.

        UTF-8; one more than there are holes. Made once.
        """
        if self._pieces is None:
            self._pieces = tuple(_spelled(self.fill([_HOLE] * self.holes)))
        return self._pieces

    def fill(self, values: Sequence[Json]) -> Json:
        """Give the structure with ``values`` in its holes, in their order; parts without any are shared."""
        if self._frame is not None:
            return _fill(self._frame, iter(values))
        return values[0] if self.holes else self._root

    def empty(self, structure: Json) -> list[Json]:
        """Give what stands in a structure where this one has its holes; undoes :meth:`fill`."""
        if self._frame is None:
            return [structure] if self.holes else []
        found: list[Json] = []
        _empty(self._frame, structure, found)
        return found

    def same(self, other: Skeleton) -> bool:
        """Say whether ``other`` is the same tree with the same holes."""
        return self.pieces == other.pieces


def is_leaf(node: Any) -> bool:
    """Say whether a node of a structure is an array in a file."""
    return isinstance(node, list) and node[0] == "array"


def children_at(node: Any) -> range | None:
    """Say where in the list of a container its children stand; None for any other node."""
    where = _CHILDREN.get(node[0]) if isinstance(node, list) else None
    return None if where is None else range(where[0], len(node), where[1])


def _fill(frame: _Frame, values: Iterator[Json]) -> Json:
    out = frame.items.copy()
    for at, inner in frame.filled:
        out[at] = next(values) if inner is None else _fill(inner, values)
    return out


def _empty(frame: _Frame, structure: Any, found: list[Json]) -> None:
    for at, inner in frame.filled:
        if inner is None:
            found.append(structure[at])
        else:
            _empty(inner, structure[at], found)


def _spelled(structure: Any) -> list[bytes]:
    """Spell a structure, cut at each ``_HOLE``; step by step, so that no call takes long."""
    out: list[bytes] = []
    piece: list[bytes] = []
    encode = msgspec.json.Encoder().encode

    def spell(node: Any) -> None:
        if node is _HOLE:
            out.append(b"".join(piece))
            piece.clear()
        elif children_at(node) is None:
            piece.append(encode(node))
        else:
            for at, child in enumerate(node):
                piece.append(b"," if at else b"[")
                if type(child) is str or (type(child) is list and child[0] == "array"):
                    piece.append(encode(child))
                else:
                    spell(child)
            piece.append(b"]")

    spell(structure)
    out.append(b"".join(piece))
    return out


class Outline:
    """All that can be said about a state without its values; never changed, and compared by identity.

    As long as a state keeps its shape, all its saves share one outline, so whatever is made of it once (a
    layout, a template of the manifest) serves them all.

    Attributes:
        paths: Of each leaf its place in the tree, such as ``model/layers/0/weight``; distinct.
        groups: Which files it goes to.
        names: Its name in them; distinct within the group.
        specs: How it is stored.
        skeleton: The tree around the leaves, without its plain values.
    """

    __slots__ = ("__weakref__", "_tensors", "groups", "names", "paths", "skeleton", "specs")

    def __init__(self, structure: Json, paths: Iterable[str], specs: Iterable[ArraySpec]) -> None:
        self.paths = tuple(paths)
        self.specs = tuple(specs)
        self.groups, self.names = _places(structure, self.paths)
        self.skeleton = Skeleton(structure)
        self._tensors: tuple[TensorSpec, ...] | None = None

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Group, name, dtype, shape and bytes, for :func:`async_ckpt.state.layout.plan`; made once."""
        if self._tensors is None:
            # Most specs are the same few objects.
            nbytes = {spec: spec.nbytes for spec in set(self.specs)}
            self._tensors = tuple(
                TensorSpec(group, name, spec.dtype, spec.shape, nbytes[spec])
                for group, name, spec in zip(self.groups, self.names, self.specs, strict=True)
            )
        return self._tensors

    def __len__(self) -> int:
        """How many leaves there are."""
        return len(self.paths)

    def same(self, other: Outline) -> bool:
        """Say whether ``other`` says the same, in which case either may stand for both."""
        # All names come from the tree.
        return self.specs == other.specs and self.skeleton.same(other.skeleton)


def _places(structure: Json, paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the group of each path, and its name in there.

    Each top-level key whose value is a container is a group; the rest shares one.
    """
    while isinstance(structure, list) and structure[0] == "stateful":
        structure = structure[2]
    if not isinstance(structure, list) or structure[0] not in _GROUPING:
        return (_SHARED_GROUP,) * len(paths), tuple(map(_tensor, paths))
    tops: list[str] = []
    names: list[str] = []
    for path in paths:
        top, below, rest = path.partition("/")
        # No component of a path is empty, so this is nobody's key.
        tops.append(top if below else "")
        names.append(_tensor(rest if below else path))
    keys = dict.fromkeys(tops)
    shared = () if keys and "" not in keys else (_SHARED_GROUP,)
    keys.pop("", None)
    groups = {**dict(zip(keys, slugs(list(keys), shared), strict=True)), "": _SHARED_GROUP}
    return tuple([groups[top] for top in tops]), tuple(names)


def _tensor(name: str) -> str:
    # Neither of the two can be part of a path: "~" is always followed by something where it is not alone.
    if not name:
        return "~root"
    return "__metadata__~" if name == "__metadata__" else name
