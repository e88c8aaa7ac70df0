"""Parts of a saved tree laid over a living one, for objects that only take their state as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .build import build
from .parse import MAPPINGS, SEQUENCES, Node

__all__ = ["overlay"]


def overlay(node: Node, live: Any, fetch: Callable[[int], Any], *, grow: bool) -> Any:
    """Build a tree that is the saved one where ``node`` says something, and ``live`` everywhere else.

    Args:
        node: The part that was chosen.
        live: The object's own ``state_dict()``; it is not changed.
        fetch: Gives the stored array of a leaf by its number.
        grow: Whether keys that ``live`` lacks are added.
    """
    if node.tag == "skipped":
        return live
    if node.tag in MAPPINGS and isinstance(live, dict):
        merged = dict(live)
        for key, child in zip(node.slots, node.children, strict=True):
            if grow or key in live:
                merged[key] = overlay(child, live.get(key), fetch, grow=grow)
        return merged
    if node.tag in SEQUENCES and isinstance(live, list | tuple) and len(live) == len(node.children):
        items = [
            overlay(child, item, fetch, grow=grow) for child, item in zip(node.children, live, strict=True)
        ]
        return tuple(items) if isinstance(live, tuple) else items
    return build(node, fetch)
