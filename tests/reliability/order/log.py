"""Reads what ``strace -f -y -s 0`` wrote: a list of operations on files, each with its beginning and its end.

Pure. With several threads at work a call may begin in one line and end in a later one; what has to be over
before something else begins is judged by these two numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.reliability.tracing.scenarios import MARK

__all__ = ["CALLS", "Operation", "read_log"]

CALLS = (
    "open,openat,creat,mkdir,mkdirat,close,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,"
    "sendfile,copy_file_range,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat,rmdir,getdents64,flock,access"
)
"""What strace has to write down."""

_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)")
_FD = re.compile(r"(?:\d+|AT_FDCWD)<(.*)>")
_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate"}
_COPIES = {"sendfile": 0, "copy_file_range": 2}
_AT = {
    "open": (None, 0),
    "creat": (None, 0),
    "openat": (0, 1),
    "mkdir": (None, 0),
    "mkdirat": (0, 1),
    "unlink": (None, 0),
    "unlinkat": (0, 1),
    "rmdir": (None, 0),
    "symlink": (None, 1),
    "symlinkat": (1, 2),
    "truncate": (None, 0),
    "access": (None, 0),
}
_TWO = {
    "rename": (None, 0, None, 1),
    "link": (None, 0, None, 1),
    "renameat": (0, 1, 2, 3),
    "renameat2": (0, 1, 2, 3),
    "linkat": (0, 1, 2, 3),
}


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        kind: ``create``, ``write``, ``sync``, ``mkdir``, ``rename``, ``exchange``, ``link``, ``unlink``,
            ``rmdir``, ``list``, ``lock``, ``close``, ``symlink`` or ``mark``.
        path: Of what; the text of a mark.
        other: The new name, for those that have one.
        start: Line in which it began.
        end: Line in which it ended.
        ok: Whether it worked.
    """

    kind: str
    path: str
    other: str = ""
    start: int = 0
    end: int = 0
    ok: bool = True


def read_log(lines: Iterable[str]) -> Iterator[Operation]:
    """Give the operations in the order in which they ended.

    Raises:
        ValueError: A line is not one that strace writes.
    """
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None:
            raise ValueError(f"line {number} of the log is not understood: {line!r}")
        thread, rest = found.groups()
        if rest.startswith(("+++", "---")):
            continue
        start = number
        if rest.endswith("<unfinished ...>"):
            begun[thread] = number, rest.removesuffix("<unfinished ...>")
            continue
        if resumed := _RESUMED.fullmatch(rest):
            start, head = begun.pop(thread)
            rest = head + resumed[2]
        call = _CALL.fullmatch(rest)
        if call is None:
            raise ValueError(f"line {number} of the log is not understood: {line!r}")
        name, words, value, _ = call.groups()
        operation = _operation(name, _split(words), int(value) if value != "?" else -1, start, number)
        if operation is not None:
            yield operation


def _operation(name: str, words: list[str], value: int, start: int, end: int) -> Operation | None:
    def made(kind: str, path: str, other: str = "") -> Operation:
        return Operation(kind, path, other, start, end, value >= 0)

    if name == "access":
        path = _path(words, None, 0)
        return made("mark", path.removeprefix(MARK)) if path.startswith(MARK) else None
    if name in {"open", "openat", "creat"}:
        creates = name == "creat" or any("O_CREAT" in word or "O_TRUNC" in word for word in words)
        return made("create", _path(words, *_AT[name])) if creates else None
    if name in {"mkdir", "mkdirat"}:
        return made("mkdir", _path(words, *_AT[name]))
    if name in {"unlink", "unlinkat", "rmdir"}:
        removes = name == "rmdir" or words[-1] == "AT_REMOVEDIR"
        return made("rmdir" if removes else "unlink", _path(words, *_AT[name]))
    if name in _TWO:
        a, b, c, d = _TWO[name]
        kind = "exchange" if "RENAME_EXCHANGE" in words[-1] else "link" if "link" in name else "rename"
        return made(kind, _path(words, a, b), _path(words, c, d))
    if name in {"symlink", "symlinkat"}:
        return made("symlink", _path(words, *_AT[name]))
    if name == "truncate":
        return made("write", _path(words, None, 0))
    if name in _WRITES:
        return made("write", _of_fd(words[0]))
    if name in _COPIES:
        return made("write", _of_fd(words[_COPIES[name]]))
    if name in {"fsync", "fdatasync"}:
        return made("sync", _of_fd(words[0]))
    if name == "getdents64":
        return made("list", _of_fd(words[0]))
    if name == "flock":
        return made("lock", _of_fd(words[0])) if "LOCK_EX" in words[1] else None
    return made("close", _of_fd(words[0])) if name == "close" else None


def _split(words: str) -> list[str]:
    """Split arguments at the commas that stand between them."""
    parts, depth, quoted, start = [], 0, False, 0
    for place, character in enumerate(words):
        if character == '"' and words[place - 1 : place] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif character in "<{[(":
            depth += 1
        elif character in ">}])":
            depth -= 1
        elif character == "," and not depth:
            parts.append(words[start:place].strip())
            start = place + 1
    return [*parts, words[start:].strip()]


def _of_fd(word: str) -> str:
    found = _FD.fullmatch(word.removesuffix("(deleted)"))
    return found[1] if found else ""


def _path(words: list[str], directory: int | None, name: int) -> str:
    path = words[name].strip('"')
    if path.startswith("/") or directory is None:
        return path
    return f"{_of_fd(words[directory])}/{path}"
