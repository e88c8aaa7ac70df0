"""JSON from strangers: what two readers could understand differently is refused.

The standard library keeps the last of two equal keys, reads ``NaN`` and ``1e400``, and raises three
unrelated exceptions for a text that is too deep, too long or not Unicode. Pure.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "check", "loads"]

MAX_DEPTH = 400
"""Levels of nesting that are written; well under what the recursion limit lets a reader follow."""

_MAX_DIGITS = 20
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def loads(data: bytes) -> Any:
    """Parse one JSON document.

    Args:
        data: UTF-8 without a byte order mark.

    Returns:
        Plain containers, ``str``, ``bool``, None, ``int`` of at most 64 bits, finite ``float``.

    Raises:
        ValueError: Anything else, such as duplicate keys, ``NaN``, lone surrogates, or more levels
            than the interpreter follows.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        # The cause would be a traceback of a thousand equal lines.
        msg = "nested too deeply"
        raise ValueError(msg) from None
    return value


def check(value: Any) -> None:
    """Check that ``value`` comes back from a strict reader as it is.

    Raises:
        ValueError: A float is not finite, an integer exceeds 64 bits, a string is not Unicode, a
            key is not a string, a type is not JSON's, or the nesting exceeds :data:`MAX_DEPTH`.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            deeper.extend(_children(item))
        if not deeper:
            return
        level = deeper
    msg = f"nested deeper than {MAX_DEPTH} levels"
    raise ValueError(msg)


def _children(item: Any) -> list[Any]:
    # Exact types: a subclass (numpy.float64 is a float) would come back as something else.
    kind = type(item)
    if kind is list:
        return item  # type: ignore[no-any-return]
    if kind is dict:
        if not all(type(key) is str for key in item):
            msg = "a key is not a string"
            raise ValueError(msg)
        return [*item, *item.values()]
    _check_plain(item, kind)
    return []


def _check_plain(item: Any, kind: type) -> None:
    if kind is str:
        if not item.isascii():
            item.encode("utf-8")
    elif kind is int:
        _in_range(item)
    elif kind is float:
        if not math.isfinite(item):
            msg = f"{item!r} is not JSON"
            raise ValueError(msg)
    elif item is not None and kind is not bool:
        msg = f"{kind.__name__} is not JSON"
        raise ValueError(msg)


def _in_range(value: int) -> int:
    if not _SMALLEST <= value <= _LARGEST:
        msg = "an integer exceeds 64 bits"
        raise ValueError(msg)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "an object names the same key twice"
        raise ValueError(msg)
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or not text.isascii():
        msg = "an integer exceeds 64 bits"
        raise ValueError(msg)
    return _in_range(int(text))


def _number(text: str) -> float:
    value = float(text) if text.isascii() else math.inf
    if not math.isfinite(value):
        msg = "a number is not finite"
        raise ValueError(msg)
    return value


def _constant(text: str) -> NoReturn:
    msg = f"{text} is not JSON"
    raise ValueError(msg)
