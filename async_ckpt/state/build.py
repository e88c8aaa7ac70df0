"""A saved tree to plain Python containers. Nothing is ever imported or called by a name from a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from async_ckpt.errors import DamagedCheckpointError

from .parse import Node

__all__ = ["build"]


def build(node: Node, fetch: Callable[[int], Any]) -> Any:
    """Build what is at or below ``node``.

    A named tuple comes back as a tuple, a dataclass as a dict of its fields, a registered node as a list of
    its children, an object with ``state_dict()`` as what that returned, a generator as a new one.

    Args:
        node: Where to start.
        fetch: Gives the stored array of a leaf by its number.

    Raises:
        DamagedCheckpointError: An array cannot be of the kind the structure claims.
    """
    tag = node.tag
    if tag == "array":
        try:
            from .arrays import present  # noqa: PLC0415 - numpy, which most structures do without

            return present(fetch(node.value), node.label)
        except ValueError as error:
            msg = f"leaf {node.value} of the tree structure is malformed: {error}"
            raise DamagedCheckpointError(msg) from error
    if tag == "rng":
        return node.value.value
    if node.is_leaf:
        return node.value
    children = [build(child, fetch) for child in node.children]
    if tag == "stateful":
        return children[0]
    if tag in ("tuple", "namedtuple"):
        return tuple(children)
    if tag in ("list", "node"):
        return children
    made = dict if tag != "odict" else OrderedDict
    return made(zip(node.slots, children, strict=True))
