"""A plugin for nbdkit, which runs it: a disk in a file, with a log of what was written and what was flushed.

A control file may hold ``flush K`` or ``write K``: the K-th of those calls from then on fails with EIO, and
what a failed call was to write is on no disk. The flush behind a failed write fails too: Linux's loop device
takes a write that was cut short for a whole one, so that nobody would ever hear of the failure otherwise.

The log is a row of records: a letter (``W`` for a write, ``F`` for a flush), offset and length as eight bytes
each, little-endian, and behind a ``W`` its bytes.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from typing import Any

API_VERSION = 2
RECORD = struct.Struct("<cQQ")

_given: dict[str, str] = {}


def config(key: str, value: str) -> None:
    _given[key] = value


def thread_model() -> int:
    import nbdkit  # type: ignore[import-not-found]  # noqa: PLC0415 - there only inside nbdkit

    return int(nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS)


def open(readonly: bool) -> dict[str, int]:  # noqa: A001 - the name is nbdkit's
    return {
        "image": os.open(_given["image"], os.O_RDWR),
        "log": os.open(_given["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    }


def close(handle: dict[str, int]) -> None:
    for fd in handle.values():
        os.close(fd)


def get_size(handle: dict[str, int]) -> int:
    return os.fstat(handle["image"]).st_size


def can_flush(handle: Any) -> bool:
    return True


def pread(handle: dict[str, int], buffer: Any, offset: int, flags: int) -> None:
    buffer[:] = os.pread(handle["image"], len(buffer), offset)


def _fails(what: str) -> None:
    """Fail, if that was asked for and this call is the one."""
    path = _given.get("control", "")
    if not path or not os.path.exists(path):  # noqa: PTH110
        return
    with io.open(path, encoding="ascii") as file:  # noqa: UP020 - `open` is the plugin's here
        kind, _, left = file.read().partition(" ")
    if kind != what:
        return
    with io.open(path, "w", encoding="ascii") as file:  # noqa: UP020
        after = "flush 1" if kind == "write" else "failed"
        file.write(after if int(left) == 1 else f"{kind} {int(left) - 1}")
    if int(left) == 1:
        import nbdkit  # noqa: PLC0415

        nbdkit.set_error(errno.EIO)
        raise OSError(errno.EIO, f"this {what} fails")


def pwrite(handle: dict[str, int], buffer: Any, offset: int, flags: int) -> None:
    _fails("write")
    data = bytes(buffer)
    os.write(handle["log"], RECORD.pack(b"W", offset, len(data)) + data)
    os.pwrite(handle["image"], data, offset)


def flush(handle: dict[str, int], flags: int) -> None:
    _fails("flush")
    os.write(handle["log"], RECORD.pack(b"F", 0, 0))
