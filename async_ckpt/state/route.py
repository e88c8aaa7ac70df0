"""A quick way through a state that looks as it did last time.

The first walk over a state notes which containers it opened. A :class:`Route` follows these notes: it
collects the children of each container in turn, and compares keys, types, dtypes and shapes a thousand at a
time. It never judges: what is not as it was, or raises, is left to the walk that knows every kind of value.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from .arrays import ArraySpec, describe, traits
from .dtypes import Json
from .encode import SIZED, Ask, Encoder, Opened, captured, is_large
from .nodes import Branch, is_stateful, open_node
from .outline import children_at, is_leaf
from .scalars import PLAIN_TYPES, encode_key, encode_scalar

__all__ = ["Route"]

CHUNK = 1024
"""Values compared in one call, which no other thread can interrupt."""

# Without OrderedDict: one of those may be given attributes, and with them a state of its own.
_MAPPINGS = frozenset({dict, defaultdict})
_SEQUENCES = frozenset({list, tuple, deque})
_SIMPLE_KEYS = frozenset({str, int, bool, bytes, type(None)})

# What is done with a value, in the order of the walk.
_MAPPING, _SEQUENCE, _STATEFUL, _OTHER, _CAPTURE = range(5)


class _Changed(Exception):  # noqa: N818 - the name says what is the case
    """The state does not look as it did."""


class _Visit(NamedTuple):
    """What is done with the value at ``at``, an index among all children seen so far.

    ``expected`` is the number of children, what :func:`_signature` says, or the hole and its depth.
    """

    at: int
    what: int
    kind: Any
    expected: Any


class _Run(NamedTuple):
    """Leaves that are looked at together: for each question the answers of last time."""

    start: int
    stop: int
    questions: tuple[tuple[Callable[[Any], Any], list[Any]], ...]


class Route:
    """The way through one state.

    Args:
        namespace: The optree namespace of the registered nodes.
        structure: What the full walk gave.
        opened: What it opened on the way, in its order.
        values: The leaves it found.
        specs: Beside them.
    """

    def __init__(
        self,
        namespace: str,
        structure: Json,
        opened: Sequence[Opened],
        values: Sequence[Any],
        specs: Sequence[ArraySpec],
    ) -> None:
        self._namespace = namespace
        self._visits: list[_Visit] = []
        self._keys: list[Any] = []
        self._leaves: list[int] = []
        self._holes: list[tuple[int, int]] = []
        self._seen = 1
        if not self._plan(structure, iter(opened), 0, 0):
            self._hole(structure, 0, 0)
        self._key_types = list(map(type, self._keys))
        self._plain = [(hole, at, depth) for hole, (at, depth) in enumerate(self._holes) if at >= 0]
        self._texts = [i for i, value in enumerate(values) if type(value) in SIZED]
        self._specs = specs
        # A bytearray was captured as bytes.
        types = [bytearray if spec.kind == "bytearray" else type(values[i]) for i, spec in enumerate(specs)]
        self._runs = _runs(values, types)

    def _plan(self, node: Any, opened: Iterator[Opened], at: int, depth: int) -> bool:
        """Note what to do below ``node``; False, with nothing noted, if there is no leaf."""
        if is_leaf(node):
            self._leaves.append(at)
            return True
        below = children_at(node)
        if below is None:
            return False
        kind, branch = next(opened)
        visits, keys, holes, seen = len(self._visits), len(self._keys), len(self._holes), self._seen
        self._visits.append(self._visit(at, kind, branch, len(below)))
        self._seen += len(below)
        found = False
        for place, position in enumerate(below, seen):
            child = node[position]
            if type(child) is list and child[0] == "array":
                self._leaves.append(place)
                found = True
            elif self._plan(child, opened, place, depth + 1):
                found = True
            else:
                self._hole(child, place, depth + 1)
        if not found:
            del self._visits[visits:], self._keys[keys:], self._holes[holes:]
            self._seen = seen
        return found

    def _visit(self, at: int, kind: type, branch: Branch | None, count: int) -> _Visit:
        if branch is None:
            return _Visit(at, _STATEFUL, kind, count)
        if kind in _SEQUENCES:
            return _Visit(at, _SEQUENCE, kind, count)
        if kind in _MAPPINGS and _SIMPLE_KEYS.issuperset(map(type, branch.slots)):
            self._keys += branch.slots
            return _Visit(at, _MAPPING, kind, count)
        return _Visit(at, _OTHER, kind, _signature(branch))

    def _hole(self, node: Any, at: int, depth: int) -> None:
        if children_at(node) is None:
            self._holes.append((at, depth))
        else:
            # At its place among the containers, so that every `state_dict()` is asked in the same order.
            self._visits.append(_Visit(at, _CAPTURE, object, (len(self._holes), depth)))
            self._holes.append((-1, depth))

    def follow(self, state: Any, ask: Ask) -> tuple[Sequence[Any], list[Json]] | None:
        """Give the leaves and the captured plain values of ``state``; None if it does not look as it did.

        Args:
            state: The live state.
            ask: Gives the ``state_dict()`` of an object; what it raises is for the full walk to raise.
        """
        encoder = Encoder(self._namespace, _refuse, texts=True, ask=ask)
        try:
            holes: list[Json] = [None] * len(self._holes)
            children = self._collect(state, encoder, ask, holes)
            values = self._values(children)
            for hole, at, depth in self._plain:
                value = children[at]
                kind = type(value)
                if kind in PLAIN_TYPES and not (kind in SIZED and is_large(value)):
                    holes[hole] = encode_scalar(value)
                else:
                    holes[hole] = encoder.encode_at(value, depth)
        except Exception:  # noqa: BLE001 - the full walk meets it too, and knows what it means
            return None
        return values, holes

    def _collect(self, state: Any, encoder: Encoder, ask: Ask, holes: list[Json]) -> list[Any]:
        """Give the state, and in the order of the walk the children of every container above a leaf."""
        children: list[Any] = [state]
        keys: list[Any] = []
        for at, what, kind, expected in self._visits:
            value = children[at]
            if what == _CAPTURE:
                hole, depth = expected
                holes[hole] = encoder.encode_at(value, depth)
                continue
            if type(value) is not kind:
                raise _Changed
            if what == _MAPPING and len(value) == expected:
                keys += value
                children += value.values()
            elif what == _SEQUENCE and len(value) == expected:
                children += value
            elif what == _STATEFUL and is_stateful(value):
                children.append(ask(value))
            elif what == _OTHER and not is_stateful(value):
                children += self._open(value, expected)
            else:
                raise _Changed
        if len(children) != self._seen:
            raise _Changed
        _same_keys(keys, self._keys, self._key_types)
        return children

    def _open(self, value: Any, expected: Any) -> Sequence[Any]:
        branch = open_node(value, self._namespace)
        if branch is None or _signature(branch) != expected:
            raise _Changed
        return branch.children

    def _values(self, children: list[Any]) -> Sequence[Any]:
        """Pick the leaves, and check that they are stored as last time."""
        values = [children[at] for at in self._leaves]
        for start, stop, questions in self._runs:
            some = values[start:stop]
            for question, answers in questions:
                if list(map(question, some)) != answers:
                    raise _Changed
        for i in self._texts:
            text = values[i]
            if not is_large(text) or describe(text) != self._specs[i]:
                raise _Changed
            values[i] = captured(text)
        return values


def _refuse(_path: str, _value: Any, _spec: ArraySpec) -> Json:
    raise _Changed  # an array where there was none


def _same_keys(keys: list[Any], expected: list[Any], types: list[type]) -> None:
    for at in range(0, len(expected), CHUNK):
        some = keys[at : at + CHUNK]
        # Types first: 1, 1.0 and True are equal, and so is a subclass of str.
        if list(map(type, some)) != types[at : at + CHUNK] or some != expected[at : at + CHUNK]:
            raise _Changed


def _signature(branch: Branch) -> tuple[Any, ...]:
    """Give what a container is made of besides its children, such that equal means the same."""
    names = list(branch.parts if branch.tag == "node" else branch.slots)
    types = list(map(type, names))
    if not _SIMPLE_KEYS.issuperset(types):
        # Tuples compare by their items, and 0.0 equals -0.0.
        names = [msgspec.json.encode(encode_key(name)) for name in names]
    return branch.tag, branch.label, types, names


def _runs(values: Sequence[Any], types: list[type]) -> list[_Run]:
    runs = []
    start = 0
    while start < len(values):
        kind = type(values[start])
        asked = traits(values[start])
        stop = min(start + CHUNK, len(values))
        for at in range(start + 1, stop):
            if type(values[at]) is not kind:
                stop = at
                break
        some = values[start:stop]
        traits_of = tuple((ask, list(map(ask, some))) for ask in asked)
        runs.append(_Run(start, stop, ((type, types[start:stop]), *traits_of)))
        start = stop
    return runs
