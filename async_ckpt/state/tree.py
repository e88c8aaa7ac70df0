"""A nested state to named leaves and a structure, and back.

Arrays are referenced, not copied; everything else is captured at once. A value that is reached twice is saved
twice. The grammar of the structure is in :mod:`async_ckpt.state.parse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .arrays import ArraySpec
from .build import build
from .dtypes import Json
from .encode import Encoder
from .layout import TensorSpec
from .outline import Outline
from .parse import choose, parse

__all__ = ["Flat", "Flattener", "Leaf", "Outline", "flatten", "select", "unflatten"]

LARGE = 1024
"""Characters or bytes; longer text and bytes become tensors instead of burdening the manifest."""

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


class Flat:
    """A state, taken apart.

    Args:
        outline: What does not change from save to save.
        values: The live arrays, and captured long texts and bytes, in the order of the outline.
        holes: The captured plain values, encoded, for the holes of the outline's skeleton.

    Attributes:
        outline: As given.
        values: As given.
        holes: As given.
    """

    __slots__ = ("holes", "outline", "values")

    def __init__(self, outline: Outline, values: Sequence[Any], holes: Sequence[Json]) -> None:
        self.outline = outline
        self.values = values
        self.holes = holes

    @property
    def structure(self) -> Json:
        """The tree, complete, its leaves by their position; made anew at each call, and only to be read."""
        return self.outline.skeleton.fill(self.holes)

    @property
    def leaves(self) -> list[Leaf]:
        """One record per leaf; made anew at each call."""
        outline = self.outline
        return [
            Leaf(*of)
            for of in zip(
                outline.paths, outline.groups, outline.names, self.values, outline.specs, strict=True
            )
        ]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """One spec per leaf, for :func:`async_ckpt.state.layout.plan`."""
        return self.outline.tensors


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
    outline = Outline(structure, [path for path, _, _ in found], [spec for _, _, spec in found])
    return Flat(outline, [value for _, value, _ in found], outline.skeleton.empty(structure))


class Flattener:
    """Takes one state apart again and again, and remembers what it looked like.

    As long as the containers, their keys, and the types, dtypes and shapes of the arrays stay as they were,
    every :meth:`flatten` gives the same :class:`Outline` object. May be used in several threads.

    Args:
        namespace: The optree namespace of the registered nodes.
    """

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace
        self._last: Outline | None = None

    def flatten(self, state: Any) -> Flat:
        """Give what :func:`flatten` gives, sooner; raises as it does."""
        flat = flatten(state, namespace=self._namespace)
        last = self._last
        if last is not None and last.same(flat.outline):
            return Flat(last, flat.values, flat.holes)
        self._last = flat.outline
        return flat


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
