"""A nested state to named leaves and a structure, and back.

Arrays are referenced, not copied; everything else is captured at once. A value that is reached twice is saved
twice. The grammar of the structure is in :mod:`async_ckpt.state.parse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .arrays import ArraySpec
from .build import build
from .dtypes import Json
from .encode import Encoder
from .layout import TensorSpec
from .parse import choose, parse
from .paths import slugs

__all__ = ["Flat", "Leaf", "flatten", "select", "unflatten"]

LARGE = 1024
"""Characters or bytes; longer text and bytes become tensors instead of burdening the manifest."""

_SHARED_GROUP = "state"
_GROUPING = frozenset({"dict", "odict", "namedtuple", "dataclass"})


class Leaf(NamedTuple):
    """An array of the state.

    Attributes:
        path: Its place in the tree, such as ``model/layers/0/weight``.
        group: Which files it goes to.
        name: Its name in them; distinct within the group.
        value: The live array itself, or a captured str or bytes.
        spec: How it is stored.
    """

    path: str
    group: str
    name: str
    value: Any
    spec: ArraySpec


@dataclass(frozen=True, slots=True)
class Flat:
    """A state, taken apart. The structure refers to the leaves by their position."""

    structure: Json
    leaves: list[Leaf]

    @property
    def specs(self) -> list[TensorSpec]:
        """One spec per leaf, for :func:`async_ckpt.state.layout.plan`."""
        return [
            TensorSpec(leaf.group, leaf.name, leaf.spec.dtype, leaf.spec.shape, leaf.spec.nbytes)
            for leaf in self.leaves
        ]


def flatten(state: Any, *, namespace: str = "") -> Flat:
    """Take a state apart.

    Args:
        state: A tree of dicts, lists, tuples, named tuples, dataclasses, nodes registered with optree and
            objects with ``state_dict()``, over arrays, random generators and plain values.
        namespace: The optree namespace of the registered nodes.

    Raises:
        UnsupportedLeafError: Something in it cannot be saved; ``path`` says where. Nothing was changed.
        Exception: What a ``state_dict()`` raised.
    """
    found: list[tuple[str, Any, ArraySpec]] = []

    def sink(path: str, value: Any, spec: ArraySpec) -> Json:
        found.append((path, value, spec))
        return ["array", len(found) - 1, spec.kind]

    structure = Encoder(namespace, sink, large=LARGE).encode(state)
    names = _names(structure, [path for path, _, _ in found])
    leaves = [
        Leaf(path, group, name, value, spec)
        for (path, value, spec), (group, name) in zip(found, names, strict=True)
    ]
    return Flat(structure, leaves)


def _names(structure: Json, paths: list[str]) -> list[tuple[str, str]]:
    """Give each path its group and its name in there.

    Each top-level key whose value is a container is a group; the rest shares one.
    """
    while isinstance(structure, list) and structure[0] == "stateful":
        structure = structure[2]
    grouping = isinstance(structure, list) and structure[0] in _GROUPING
    split = [path.partition("/") if grouping else ("", "", path) for path in paths]
    tops = dict.fromkeys(top for top, below, _ in split if below)
    shared = () if len(tops) and all(below for _, below, _ in split) else (_SHARED_GROUP,)
    groups = dict(zip(tops, slugs(list(tops), shared), strict=True))
    return [
        (groups[top], _tensor(rest)) if below else (_SHARED_GROUP, _tensor(path))
        for path, (top, below, rest) in zip(paths, split, strict=True)
    ]


def _tensor(name: str) -> str:
    # Neither of the two can be part of a path: "~" is always followed by something where it is not alone.
    if not name:
        return "~root"
    return "__metadata__~" if name == "__metadata__" else name


def unflatten(structure: Any, arrays: Sequence[Any], *, only: str | Iterable[str] | None = None) -> Any:
    """Put a state together from plain Python containers (see :func:`async_ckpt.state.build.build`).

    Arrays come back as torch tensors or jax arrays if they were such and the library is loaded, else as numpy
    arrays. They share the memory of ``arrays`` where the library allows it.

    Args:
        structure: From anywhere; it is judged in full before anything is built.
        arrays: The stored arrays, one per leaf; None for leaves that ``only`` does not choose.
        only: Globs over paths; the rest is left out of mappings and is None in sequences.

    Raises:
        DamagedCheckpointError: The structure does not describe a tree of exactly these leaves.
        StructureMismatchError: A glob chooses nothing.
    """
    root = choose(parse(structure, len(arrays)), only)
    return None if root is None else build(root, arrays.__getitem__)


def select(structure: Any, count: int, only: str | Iterable[str] | None) -> list[int]:
    """Give the numbers of the leaves that ``only`` chooses, ascending; raises as :func:`unflatten` does."""
    root = choose(parse(structure, count), only)
    return [] if root is None else sorted(root.leaves())
