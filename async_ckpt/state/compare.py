"""A saved tree against a living one: what differs, and what to do where nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import rng, torch_arrays
from .arrays import describe, is_array
from .build import build
from .dtypes import UnsaveableError
from .landing import Landing, filler, lies_in_place, replacer, row_of
from .nodes import Branch, is_stateful, open_node
from .overlay import overlay
from .parse import MAPPINGS, MAX_DEPTH, Node
from .paths import join, matcher
from .scalars import PLAIN_TYPES, encode_scalar

__all__ = ["Comparison"]

Put = Callable[[Any], None]

_TEXTS = frozenset({"str", "bytes", "bytearray"})


def _ident(key: Any) -> Any:
    """Tell 1, 1.0 and True apart, which a dict does not."""
    return key if type(key) is str else (type(key), repr(key))


def _is_plain(value: Any) -> bool:
    return type(value) in PLAIN_TYPES or isinstance(value, np.generic)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and encode_scalar(one) == encode_scalar(other)


def _family(tag: str) -> str:
    return "dict" if tag in MAPPINGS else tag


class Comparison:
    """One walk over both trees.

    Attributes:
        missing: Paths that only the living state has.
        unexpected: Paths that only the checkpoint has.
        different: Paths that both have, with both sides in words.
        landings: For each leaf to be read, where it goes.
        sets: What to call once everything is read.
        loads: Paths of stateful objects, and what to call after that.
    """

    def __init__(self, specs: Sequence[Any], *, only: Any, strict: bool, namespace: str) -> None:
        self._specs = specs
        self._chosen, _ = matcher(only)
        self._partial = only is not None
        self._strict = strict
        self._namespace = namespace
        self._dry = False
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.different: list[str] = []
        self.landings: dict[int, Landing] = {}
        self.sets: list[Callable[[], None]] = []
        self.loads: list[tuple[str, Callable[[], None]]] = []

    def compare(self, node: Node, value: Any, path: str, put: Put | None, depth: int) -> None:
        """Compare what is at ``path``; ``put`` replaces ``value`` where it stands, if that is possible."""
        if node.tag == "skipped":
            return
        if node.tag == "array" and type(value) is np.ndarray:
            # Tens of thousands of them come this way.
            self._array(node, value, path, put)
        elif is_stateful(value) and not is_array(value):
            self._stateful(node, value, path)
        elif node.tag == "stateful":
            self.compare(node.children[0], value, path, put, depth)
        elif node.tag == "rng" or rng.is_rng(value):
            self._rng(node, value, path)
        elif _is_plain(value):
            self._plain(node, value, path, put)
        elif is_array(value):
            self._array(node, value, path, put)
        else:
            self._container(node, value, path, depth)

    def _differ(self, path: str, saved: str, here: str) -> None:
        self.different.append(f"{path or 'the root'}: saved {saved}, here {here}")

    def _words(self, node: Node) -> str:
        if node.tag == "array" and node.label in _TEXTS:
            return f"a {node.label}"
        if node.tag == "array":
            spec = self._specs[node.value]
            return f"{spec.dtype} {list(spec.shape)}"
        if node.tag == "rng":
            return f"a {node.value.kind}"
        return f"a {type(node.value).__name__}" if node.is_leaf else f"a {node.label or node.tag}"

    def _here(self, value: Any) -> str:
        if is_array(value):
            try:
                spec = describe(value)
            except UnsaveableError as error:
                return str(error)
            return f"{spec.dtype} {list(spec.shape)}"
        return f"a {type(value).__qualname__}"

    def _land(self, index: int, landing: Landing) -> None:
        if not self._dry:
            self.landings[index] = landing

    def _plain(self, node: Node, value: Any, path: str, put: Put | None) -> None:
        text = node.tag == "array" and node.label in _TEXTS
        if node.tag != "plain" and not text:
            self._differ(path, self._words(node), self._here(value))
        elif put is None:
            if text or not _same(node.value, value):
                self._differ(
                    path, self._words(node), f"{self._here(value)} that cannot be replaced where it stands"
                )
        elif text:
            spec = self._specs[node.value]
            settle = partial(_put_built, node, put)
            self._land(node.value, Landing(spec.dtype, spec.shape, settle=settle))
        elif not self._dry:
            self.sets.append(partial(put, node.value))

    def _array(self, node: Node, value: Any, path: str, put: Put | None) -> None:
        if node.tag != "array" or node.label in _TEXTS:
            self._differ(path, self._words(node), self._here(value))
            return
        saved = self._specs[node.value]
        try:
            here = describe(value)
        except UnsaveableError as error:
            self._differ(path, self._words(node), str(error))
            return
        if (here.dtype, here.shape) != (saved.dtype, tuple(saved.shape)):
            self._differ(path, self._words(node), self._here(value))
        elif here.kind != node.label and _variant(here.kind) != _variant(node.label):
            self._differ(path, node.label, here.kind)
        elif lies_in_place(value):
            row = row_of(value)
            settle = None if row is not None else filler(value)
            self._land(node.value, Landing(saved.dtype, here.shape, row=row, settle=settle))
        elif put is not None:
            self._land(node.value, Landing(saved.dtype, here.shape, settle=replacer(value, put)))
        else:
            self._differ(path, self._words(node), "an array that can be neither written to nor replaced")

    def _rng(self, node: Node, value: Any, path: str) -> None:
        try:
            here = rng.kind_of(value) if rng.is_rng(value) else self._here(value)
        except UnsaveableError as error:
            here = str(error)
        if node.tag != "rng" or node.value.kind != here:
            self._differ(path, self._words(node), here)
        elif not self._dry:
            self.sets.append(partial(node.value.put, value))

    def _container(self, node: Node, value: Any, path: str, depth: int) -> None:
        branch = open_node(value, self._namespace)
        if branch is None or node.is_leaf or _family(branch.tag) != _family(node.tag) or depth > MAX_DEPTH:
            self._differ(path, self._words(node), self._here(value))
        elif branch.tag in ("list", "tuple"):
            if len(branch.children) != len(node.children):
                self._differ(path, f"{len(node.children)} items", f"{len(branch.children)} items")
                return
            for i, (place, child) in enumerate(node.places(path)):
                self.compare(child, branch.children[i], place, _putter(branch, i), depth + 1)
        else:
            self._keyed(node, branch, path, depth)

    def _keyed(self, node: Node, branch: Branch, path: str, depth: int) -> None:
        slots = branch.parts if branch.tag == "node" else branch.slots
        here = {_ident(slot): i for i, slot in enumerate(slots)}
        for slot, (place, child) in zip(node.slots, node.places(path), strict=True):
            i = here.pop(_ident(slot), None)
            if i is not None:
                self.compare(child, branch.children[i], place, _putter(branch, i), depth + 1)
            elif self._strict:
                self.unexpected.extend(spot for spot in child.spots(place))
        if self._strict:
            for i in here.values():
                place = join(path, branch.parts[i])
                spots = self._spots(branch.children[i], place, depth + 1)
                self.missing.extend(spot for spot in spots if self._chosen(spot))

    def _spots(self, value: Any, path: str, depth: int) -> Iterator[str]:
        """Give the paths of the values at or below ``value``, and of containers that hold nothing."""
        leaf = _is_plain(value) or is_array(value) or rng.is_rng(value) or is_stateful(value)
        branch = None if leaf or depth > MAX_DEPTH else open_node(value, self._namespace)
        if branch is None or not branch.children:
            yield path
            return
        for part, child in zip(branch.parts, branch.children, strict=True):
            yield from self._spots(child, join(path, part), depth + 1)

    def _stateful(self, node: Node, value: Any, path: str) -> None:
        inner = node.children[0] if node.tag == "stateful" else node
        module = torch_arrays.is_module(value)
        pruned = self._partial or (module and not self._strict)
        live = value.state_dict() if module or pruned else None
        if module:
            dry, self._dry = self._dry, True
            self.compare(inner, live, path, None, 0)
            self._dry = dry
        if self._dry:
            return
        for index in inner.leaves():
            spec = self._specs[index]
            self.landings[index] = Landing(spec.dtype, tuple(spec.shape))

        def fetch(index: int) -> Any:
            return self.landings[index].array

        def load() -> None:
            tree = overlay(inner, live, fetch, grow=self._strict) if pruned else build(inner, fetch)
            value.load_state_dict(tree)

        self.loads.append((path, load))


def _variant(kind: str) -> str:
    """Give what of a kind must agree: that it is complex, or a key; not the library or the byte order."""
    return kind.partition(":")[2].removesuffix("be")


def _putter(branch: Branch, i: int) -> Put | None:
    return None if branch.put is None else partial(branch.put, branch.slots[i])


def _put_built(node: Node, put: Put, array: Any) -> None:
    put(build(node, lambda _index: array))
