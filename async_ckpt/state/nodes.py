"""Live containers: what each holds, under which names, and how a child is put back.

One function, :func:`open_node`, knows every kind of container; saving, restoring in place and checking all
walk through it, so they cannot disagree about what a tree is.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from .paths import components

__all__ = ["Branch", "is_stateful", "open_node", "words"]


class Branch:
    """A container, opened.

    Attributes:
        tag: ``dict``, ``odict``, ``list``, ``tuple``, ``namedtuple``, ``dataclass``, ``node``.
        label: The type's name, for the tags that have one; only ever shown.
        slots: What each child is found under: a key, an index, a field's name.
        parts: The path component of each child; distinct.
        children: The children, in order.
        put: Sets the child of a slot, or None if the container cannot be changed.
    """

    __slots__ = ("children", "label", "parts", "put", "slots", "tag")

    def __init__(
        self,
        tag: str,
        slots: Sequence[Any],
        children: Sequence[Any],
        *,
        put: Callable[[Any, Any], None] | None = None,
        label: str = "",
        names: Sequence[Any] | None = None,
    ) -> None:
        self.tag = tag
        self.label = label
        self.slots = slots
        self.parts = components(slots if names is None else names)
        self.children = children
        self.put = put


def is_stateful(value: object) -> bool:
    """Say whether ``value`` has ``state_dict()`` and ``load_state_dict()``."""
    return (
        not isinstance(value, type)
        and callable(getattr(value, "state_dict", None))
        and callable(getattr(value, "load_state_dict", None))
    )


def open_node(value: Any, namespace: str) -> Branch | None:
    """Open a container; None if it is none. The caller tells stateful objects and leaves apart first."""
    kind = type(value)
    if kind is dict:
        return _mapping("dict", value)
    if kind is list:
        return Branch("list", range(len(value)), list(value), put=value.__setitem__)
    if kind is tuple:
        return Branch("tuple", range(len(value)), value)
    if kind is OrderedDict or kind is defaultdict:
        return _mapping("odict" if kind is OrderedDict else "dict", value)
    if kind is deque:
        return Branch("list", range(len(value)), list(value), put=value.__setitem__)
    if isinstance(value, type):
        return None
    if isinstance(value, tuple):
        return _tuple_like(value)
    return _registered(value, namespace) or _by_shape(value)


def _mapping(tag: str, value: Any) -> Branch:
    items = list(value.items())
    return Branch(tag, [key for key, _ in items], [child for _, child in items], put=value.__setitem__)


def _registered(value: Any, namespace: str) -> Branch | None:
    """Open a node that was registered with optree."""
    import optree  # noqa: PLC0415 - states of plain containers do not pay for it

    if optree.tree_is_leaf(value, none_is_leaf=True, namespace=namespace):
        return None
    children, _, entries, _ = optree.tree_flatten_one_level(value, none_is_leaf=True, namespace=namespace)
    label = type(value).__qualname__
    return Branch("node", range(len(children)), list(children), label=label, names=list(entries))


def _tuple_like(value: Any) -> Branch:
    names = getattr(value, "_fields", None)
    if isinstance(names, tuple) and len(names) == len(value):
        return Branch("namedtuple", names, tuple(value), label=type(value).__qualname__)
    return Branch("tuple", range(len(value)), tuple(value))


def _by_shape(value: Any) -> Branch | None:
    """Open what is recognised by how it is made: dataclasses, subclasses of containers."""
    if dataclasses.is_dataclass(value):
        return _dataclass(value)
    if isinstance(value, dict):
        return _mapping("dict", value)
    if isinstance(value, list):
        return Branch("list", range(len(value)), list(value), put=value.__setitem__)
    return None


def _dataclass(value: Any) -> Branch:
    frozen = type(value).__dataclass_params__.frozen
    names = [field.name for field in dataclasses.fields(value) if field.init]

    def put(name: str, child: Any) -> None:
        setattr(value, name, child)

    children = [getattr(value, name) for name in names]
    return Branch("dataclass", names, children, label=type(value).__qualname__, put=None if frozen else put)


def words(value: Any) -> str:
    """Say in words what a value is that cannot be saved."""
    kind = type(value)
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"the function {value.__qualname__}"
    if hasattr(value, "state_dict") != hasattr(value, "load_state_dict"):
        has, lacks = "state_dict", "load_state_dict"
        if hasattr(value, "load_state_dict"):
            has, lacks = lacks, has
        return f"an object of type {kind.__module__}.{kind.__qualname__}, which has {has}() but no {lacks}()"
    for base in (bool, int, float, complex, str, bytes, bytearray):
        if isinstance(value, base):
            return f"a {kind.__qualname__}, a subclass of {base.__name__} that would come back as a plain one"
    return f"an object of type {kind.__module__}.{kind.__qualname__}"
