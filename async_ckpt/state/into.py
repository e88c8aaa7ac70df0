"""Restoring into a living state: everything is checked first, then filled where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from async_ckpt.errors import (
    DamagedCheckpointError,
    RestoreError,
    StructureMismatchError,
    UnsupportedLeafError,
)

from . import rng
from .arrays import Bytes, check_kind, describe, is_array
from .compare import Comparison
from .dtypes import UnsaveableError, checked_nbytes
from .landing import Landing, lies_in_place
from .nodes import is_stateful, open_node, words
from .parse import MAX_DEPTH, Node, choose, parse
from .paths import join
from .scalars import PLAIN_TYPES

__all__ = ["IntoPlan", "Stored", "check_restorable", "plan_into"]

_SHOWN = 8
"""Paths per kind of mismatch that the message names; the error's attributes have all."""


class Stored(Protocol):
    """What a checkpoint says about a tensor; a ``TensorSpec`` or a manifest's entry."""

    @property
    def dtype(self) -> str:
        """The safetensors name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        ...


class IntoPlan:
    """A restore that was found to fit. Read each leaf into its :meth:`memory`, then :meth:`apply`.

    Attributes:
        indices: The numbers of the leaves to be read, ascending.
    """

    def __init__(
        self,
        landings: dict[int, Landing],
        sets: list[Callable[[], None]],
        loads: list[tuple[str, Callable[[], None]]],
    ) -> None:
        self.indices = tuple(sorted(landings))
        self._landings = landings
        self._sets = sets
        self._loads = loads

    def memory(self, index: int) -> Bytes:
        """Give the writable row of bytes that leaf ``index`` is to be read into, exactly as long as it is.

        Often this is the live array itself, so a read that fails half-way leaves it half overwritten.
        """
        return self._landings[index].memory

    def in_place(self, index: int) -> bool:
        """Say whether :meth:`memory` is the live array itself."""
        return self._landings[index].in_place

    def apply(self) -> None:
        """Put everything else in its place; stateful objects come last.

        Raises:
            RestoreError: A ``load_state_dict()`` refused what was saved; its exception is the cause. The
                rest of the state has been restored by then.
        """
        for index in self.indices:
            self._landings[index].settle()
        for put in self._sets:
            put()
        for path, load in self._loads:
            try:
                load()
            except Exception as error:
                msg = f"{path or 'the root'}: load_state_dict() refused the saved state: {error}"
                raise RestoreError(msg) from error


def plan_into(
    target: Any,
    structure: Any,
    specs: Sequence[Stored],
    *,
    strict: bool = True,
    only: str | Iterable[str] | None = None,
    namespace: str = "",
) -> IntoPlan:
    """Find a place in a living state for everything a checkpoint holds. Touches nothing.

    Plain values may change their value and their type; arrays keep shape and dtype, containers their kind
    and their keys or length. An object with ``load_state_dict()`` judges its part by itself, except for a
    torch module, whose names and shapes are compared here.

    Args:
        target: The living state.
        structure: The checkpoint's tree, from anywhere.
        specs: dtype and shape of each leaf, already judged.
        strict: Whether both sides must have the same keys; if not, what only one side has is left alone.
        only: Globs over paths; everything else is left alone.
        namespace: The optree namespace of registered nodes.

    Raises:
        StructureMismatchError: The checkpoint does not fit; every place that differs is listed.
        DamagedCheckpointError: The structure is malformed, or a leaf cannot be of the kind it claims.
    """
    whole = parse(structure, len(specs))
    _judge(whole, specs)
    root = choose(whole, only)
    found = Comparison(specs, only=only, strict=strict, namespace=namespace)
    if root is not None:
        found.compare(root, target, "", None, 0)
    if found.missing or found.unexpected or found.different:
        raise _mismatch(found)
    return IntoPlan(found.landings, found.sets, found.loads)


def _judge(node: Node, specs: Sequence[Stored]) -> None:
    """Check that every leaf can be what the structure claims, before anything is overwritten with it."""
    if node.tag == "array":
        spec = specs[node.value]
        try:
            checked_nbytes(spec.dtype, tuple(spec.shape))
            check_kind(node.label, spec.dtype, tuple(spec.shape))
        except ValueError as error:
            msg = f"leaf {node.value} of the tree structure is malformed: {error}"
            raise DamagedCheckpointError(msg) from error
    for child in node.children:
        _judge(child, specs)


def _mismatch(found: Comparison) -> StructureMismatchError:
    lines = ["the checkpoint does not fit the state"]
    for title, paths in (
        ("missing in the checkpoint", found.missing),
        ("unexpected in the checkpoint", found.unexpected),
        ("different", found.different),
    ):
        if paths:
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            lines.append(f"{title}: {', '.join(paths[:_SHOWN])}{more}")
    return StructureMismatchError(
        "; ".join(lines), missing=found.missing, unexpected=found.unexpected, different=found.different
    )


def check_restorable(state: Any, *, namespace: str = "", in_place: bool = True) -> None:
    """Check that everything in a state can be saved and, with ``in_place``, be restored where it stands.

    A value that is no array cannot be changed, only replaced, so it must stand in a dict, a list or a
    dataclass that is not frozen; and so must an array that is read-only. What is below an object with
    ``load_state_dict()`` is that object's business.

    Raises:
        UnsupportedLeafError: A value cannot be saved or put back; ``path`` says where it stands.
    """
    _Restorable(namespace, in_place=in_place).check(state, "", None, 0)


class _Restorable:
    def __init__(self, namespace: str, *, in_place: bool) -> None:
        self._namespace = namespace
        self._in_place = in_place
        self._open: set[int] = set()

    def check(self, value: Any, path: str, holder: str | None, depth: int) -> None:
        """Check a value; ``holder`` names the unchangeable container it stands in, or is None."""
        if type(value) in PLAIN_TYPES or isinstance(value, np.generic):
            self._need(holder, path, f"a {type(value).__name__}")
        elif is_array(value):
            try:
                describe(value)
            except UnsaveableError as error:
                msg = f"{path or 'the root of the state'}: cannot save {error}"
                raise UnsupportedLeafError(msg, path=path) from None
            if not lies_in_place(value):
                self._need(holder, path, "an array that cannot be written to")
        elif not rng.is_rng(value) and not is_stateful(value):
            self._container(value, path, depth)

    def _container(self, value: Any, path: str, depth: int) -> None:
        branch = open_node(value, self._namespace)
        if branch is None or depth >= MAX_DEPTH or id(value) in self._open:
            what = words(value) if branch is None else "a tree that is too deep or holds itself"
            msg = f"{path or 'the root of the state'}: cannot save {what}"
            raise UnsupportedLeafError(msg, path=path)
        holder = None if branch.put else f"a {branch.label or branch.tag}"
        self._open.add(id(value))
        for part, child in zip(branch.parts, branch.children, strict=True):
            self.check(child, join(path, part), holder, depth + 1)
        self._open.discard(id(value))

    def _need(self, holder: str | None, path: str, what: str) -> None:
        if self._in_place and (holder is not None or not path):
            where = (
                f"in {holder}, which cannot be changed"
                if holder
                else "at the root, where nothing can replace it"
            )
            msg = f"{path or 'the root of the state'}: {what} {where}, so it could not be restored in place"
            raise UnsupportedLeafError(msg, path=path)
