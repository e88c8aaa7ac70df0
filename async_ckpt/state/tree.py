"""A nested state to named leaves and a structure, and back.

Arrays are referenced, not copied; everything else is captured at once. A value that is reached twice is saved
twice. The grammar of the structure is in :mod:`async_ckpt.state.parse`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .arrays import ArraySpec
from .build import build
from .cuda import Mark
from .dtypes import Json
from .encode import Ask, Encoder, Opened, state_dict
from .layout import TensorSpec
from .outline import Outline, split
from .parse import choose, parse
from .route import Route

__all__ = ["Flat", "Flattener", "Leaf", "Outline", "flatten", "select", "unflatten"]


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
        mark: How far the work of GPUs has to be for the values to be those of now; None where none is in use.
    """

    __slots__ = ("holes", "mark", "outline", "values")

    def __init__(self, outline: Outline, values: Sequence[Any], holes: Sequence[Json]) -> None:
        self.outline = outline
        self.values = values
        self.holes = holes
        self.mark: Mark | None = None

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
    return Flattener(namespace).flatten(state)


class Flattener:
    """Takes one state apart again and again, and remembers what it looked like.

    As long as the containers, their keys, and the types, dtypes and shapes of the arrays stay as they were,
    every :meth:`flatten` gives the same :class:`Outline` object. May be used in several threads.

    Args:
        namespace: The optree namespace of the registered nodes.
    """

    def __init__(self, namespace: str = "") -> None:
        self._namespace = namespace
        self._last: tuple[Route, Outline] | None = None

    def flatten(self, state: Any) -> Flat:
        """Give what :func:`flatten` gives, sooner; raises as it does."""
        answers = _Answers()
        if self._last is not None:
            route, outline = self._last
            found = route.follow(state, answers.ask)
            if found is not None:
                return Flat(outline, *found)
        return self._walk(state, answers.again)

    def _walk(self, state: Any, ask: Ask) -> Flat:
        paths: list[str] = []
        values: list[Any] = []
        specs: list[ArraySpec] = []
        opened: list[Opened] = []

        def sink(path: str, value: Any, spec: ArraySpec) -> Json:
            paths.append(path)
            values.append(value)
            specs.append(spec)
            return ["array", len(values) - 1, spec.kind]

        encoder = Encoder(self._namespace, sink, texts=True, ask=ask, opened=opened)
        structure = encoder.encode(state)
        skeleton, holes = split(structure)
        outline = Outline(structure, skeleton, paths, specs)
        if self._last is not None and self._last[1].same(outline):
            outline = self._last[1]
        self._last = Route(self._namespace, structure, opened, values, specs), outline
        return Flat(outline, values, holes)


class _Answers:
    """What objects said about their state in an attempt that came to nothing; nobody is asked twice."""

    def __init__(self) -> None:
        self._kept: dict[int, deque[tuple[Any, Any, Exception | None]]] = {}

    def ask(self, value: Any) -> Any:
        """Ask an object and remember its answer; raises ``_Unanswered`` for whatever it raised."""
        answer: Any = None
        failure: Exception | None = None
        try:
            answer = state_dict(value)
        except Exception as error:  # noqa: BLE001 - raised when it is asked again
            failure = error
        # The object too: as long as it lives, nothing else has its id.
        self._kept.setdefault(id(value), deque()).append((value, answer, failure))
        if failure is not None:
            raise _Unanswered
        return answer

    def again(self, value: Any) -> Any:
        """Give the answers of an object in their order; ask once they are used up."""
        kept = self._kept.get(id(value))
        if not kept:
            return state_dict(value)
        _, answer, failure = kept.popleft()
        if failure is not None:
            raise failure
        return answer


class _Unanswered(Exception):  # noqa: N818 - the name says what is the case
    """Stands for what a ``state_dict()`` raised, which nobody but the full walk may touch."""


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
