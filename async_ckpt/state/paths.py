"""Places in a tree as text, names for files, and patterns over places. Pure.

A path is its components joined by ``/``; inside a component ``~`` is written ``~0`` and ``/`` is ``~1``, as
in a JSON pointer. Two more escapes keep every path non-empty and encodable: an empty key is ``~``, and a lone
surrogate is ``~u`` and its four hex digits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["components", "join", "matcher", "slugs"]

_SPECIAL = re.compile("[~/\ud800-\udfff]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_SLUG_LENGTH = 64


def _escape(match: re.Match[str]) -> str:
    found = match.group()
    return {"~": "~0", "/": "~1"}.get(found) or f"~u{ord(found):04x}"


def _component(key: object) -> str:
    text = key if isinstance(key, str) else repr(key)
    return _SPECIAL.sub(_escape, text) if text else "~"


def components(keys: Sequence[Any]) -> list[str]:
    """Give one path component per key; distinct, also when keys such as ``1`` and ``"1"`` look alike."""
    if isinstance(keys, range):
        return [str(i) for i in keys]
    try:
        # Nearly all keys are simple text, which takes one look at all of them.
        if all(keys) and not _SPECIAL.search("".join(keys)):
            return list(keys)
    except TypeError:
        # Some key is no text.
        pass
    parts = [_component(key) for key in keys]
    count = Counter(parts)
    for i, key in enumerate(keys):
        if count[parts[i]] > 1 and not isinstance(key, str):
            marked, n = f"{parts[i]}~{type(key).__name__}", 1
            while marked in count:
                n += 1
                marked = f"{parts[i]}~{type(key).__name__}{n}"
            count[marked] = 1
            parts[i] = marked
    return parts


def join(parent: str, part: str) -> str:
    """Give the path of a child; the root's path is empty."""
    return f"{parent}/{part}" if parent else part


def slugs(keys: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Give each key a name that is safe in a file name, distinct even where case does not count."""
    used = {name.casefold() for name in taken}
    names = []
    for key in keys:
        base = _UNSAFE.sub("_", key)[:_SLUG_LENGTH].lstrip(".-") or "group"
        name, n = base, 1
        while name.casefold() in used:
            n += 1
            name = f"{base}-{n}"
        used.add(name.casefold())
        names.append(name)
    return names


def _pattern(glob: str) -> re.Pattern[str]:
    """Compile one glob, to be matched against ``/`` and the path, or nothing for the root."""
    text = ""
    for part in glob.strip("/").split("/"):
        if part == "**":
            text += "(?:/[^/]+)*"
            continue
        text += "/"
        for piece in re.split(r"([*?]|\[[^\]]+\])", part):
            if piece in {"*", "?"}:
                text += "[^/]*" if piece == "*" else "[^/]"
            elif piece.startswith("[") and piece.endswith("]"):
                inner = re.escape(piece[1:-1]).replace(r"\-", "-")
                text += f"[^{inner[1:]}]" if inner.startswith("!") and len(inner) > 1 else f"[{inner}]"
            else:
                text += re.escape(piece)
    if not re.search(r"[*?[]", glob):
        text += "(?:/[^/]+)*"
    return re.compile(text, re.DOTALL)


def matcher(only: str | Iterable[str] | None) -> tuple[Callable[[str], bool], dict[str, bool]]:
    """Give a test of paths against one or more globs, and a record of which globs ever matched.

    Args:
        only: One glob or several; None matches everything. ``**`` is any number of components, none too;
            ``*``, ``?`` and ``[...]`` stay within one. A plain path means all that is below it too.
    """
    if only is None:
        return (lambda _path: True), {}
    globs = [only] if isinstance(only, str) else list(only)
    hits = dict.fromkeys(globs, False)
    patterns = [(glob, _pattern(glob)) for glob in globs]

    def matches(path: str) -> bool:
        found, place = False, f"/{path}" if path else ""
        for glob, pattern in patterns:
            if pattern.fullmatch(place):
                hits[glob] = found = True
        return found

    return matches, hits
