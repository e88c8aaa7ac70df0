"""What stays the same from one save of a state to the next: names, dtypes, shapes, the tree around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .arrays import ArraySpec
from .dtypes import Json
from .layout import TensorSpec
from .paths import slugs

__all__ = ["Outline", "Skeleton", "children_at", "is_leaf", "split"]

_SHARED_GROUP = "state"
_GROUPING = frozenset({"dict", "odict", "namedtuple", "dataclass"})

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


_HOLE: Any = object()


class _Frame:
    """A container above an array: where in its list there is a hole (None), or a container with holes."""

    __slots__ = ("filled",)

    def __init__(self, filled: dict[int, _Frame | None]) -> None:
        self.filled = filled


class Skeleton:
    """A structure without its plain values, as :func:`split` gives it.

    Where a largest part without any array stood, such as a number or a table of settings, there is a hole.
    It is kept as text: a list for each of many arrays would slow down every garbage collection.
    """

    __slots__ = ("_pieces", "_source")

    def __init__(self, structure: Json, frame: _Frame | None) -> None:
        self._source: tuple[Json, _Frame | None] | None = (structure, frame)
        self._pieces: tuple[bytes, ...] = ()

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The text around the holes as JSON, in the spelling of :func:`msgspec.json.encode`.

        UTF-8; one more than there are holes. Made once, and the structure is held until then.
        """
        source = self._source
        if source is not None:
            self._pieces = tuple(_spelled(*source))
            # After the pieces: whoever finds no source finds them.
            self._source = None
        return self._pieces

    def fill(self, values: Sequence[Json]) -> Json:
        """Give the structure with ``values`` in its holes, in their order; a new one each time.

        Raises:
            ValueError: They are more or fewer than the holes.
        """
        encode = msgspec.json.Encoder().encode
        first, *pieces = self.pieces
        parts = [first]
        for value, piece in zip(values, pieces, strict=True):
            parts += (encode(value), piece)
        filled: Json = msgspec.json.decode(b"".join(parts))
        return filled

    def same(self, other: Skeleton) -> bool:
        """Say whether ``other`` is the same tree with the same holes."""
        return self.pieces == other.pieces


def split(structure: Json) -> tuple[Skeleton, list[Json]]:
    """Part a structure into what stays from save to save, and the plain values in its holes."""
    if is_leaf(structure):
        return Skeleton(structure, None), []
    values: list[Json] = []
    found, frame = _split(structure, values)
    return (Skeleton(structure, frame), values) if found else (Skeleton(_HOLE, None), [structure])


def _split(node: Any, values: list[Json]) -> tuple[bool, _Frame | None]:
    """Say whether there are arrays below, and where the holes are if so; collects what stands in them."""
    where = children_at(node)
    if where is None:
        return False, None
    before = len(values)
    found = False
    filled: dict[int, _Frame | None] = {}
    for at in where:
        child = node[at]
        # Spelled out, for nearly all children are leaves.
        if type(child) is list and child[0] == "array":
            found = True
            continue
        below, frame = _split(child, values)
        if not below:
            values.append(child)
        if frame is not None or not below:
            filled[at] = frame
        found = found or below
    if not found:
        del values[before:]
        return False, None
    return True, _Frame(filled) if filled else None


def is_leaf(node: Any) -> bool:
    """Say whether a node of a structure is an array in a file."""
    return isinstance(node, list) and node[0] == "array"


def children_at(node: Any) -> range | None:
    """Say where in the list of a container its children stand; None for any other node."""
    where = _CHILDREN.get(node[0]) if isinstance(node, list) else None
    return None if where is None else range(where[0], len(node), where[1])


def _spelled(structure: Any, root: _Frame | None) -> list[bytes]:
    """Spell a structure, cut at its holes; step by step, so that no call takes long."""
    out: list[bytes] = []
    piece: list[bytes] = []
    encode = msgspec.json.Encoder().encode

    def spell(node: Any, frame: _Frame | None) -> None:
        filled = {} if frame is None else frame.filled
        if node is _HOLE:
            out.append(b"".join(piece))
            piece.clear()
        elif children_at(node) is None:
            piece.append(encode(node))
        else:
            for at, child in enumerate(node):
                piece.append(b"," if at else b"[")
                if at in filled:
                    spell(_HOLE if filled[at] is None else child, filled[at])
                elif type(child) is str or (type(child) is list and child[0] == "array"):
                    piece.append(encode(child))
                else:
                    spell(child, None)
            piece.append(b"]")

    spell(structure, root)
    out.append(b"".join(piece))
    return out


class Outline:
    """All that can be said about a state without its values; never changed, and compared by identity.

    As long as a state keeps its shape, all its saves share one outline, so whatever is made of it once (a
    layout, a template of the manifest) serves them all.

    Args:
        structure: A complete structure; looked at, and not kept.
        skeleton: What of it stays.
        paths: As below.
        specs: As below.

    Attributes:
        paths: Of each leaf its place in the tree, such as ``model/layers/0/weight``; distinct.
        groups: Which files it goes to.
        names: Its name in them; distinct within the group.
        specs: How it is stored.
        skeleton: The tree around the leaves, without its plain values.
    """

    __slots__ = ("__weakref__", "groups", "names", "paths", "skeleton", "specs")

    def __init__(
        self, structure: Json, skeleton: Skeleton, paths: Iterable[str], specs: Iterable[ArraySpec]
    ) -> None:
        self.paths = tuple(paths)
        self.specs = tuple(specs)
        self.groups, self.names = _places(structure, self.paths)
        self.skeleton = skeleton

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Group, name, dtype, shape, bytes, for :func:`async_ckpt.state.layout.plan`; made at each call."""
        # Most specs are the same few objects.
        nbytes = {spec: spec.nbytes for spec in set(self.specs)}
        return tuple(
            TensorSpec(group, name, spec.dtype, spec.shape, nbytes[spec])
            for group, name, spec in zip(self.groups, self.names, self.specs, strict=True)
        )

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
