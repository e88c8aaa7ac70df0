"""A new file that appears under its name complete, or not at all. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from async_ckpt.cli.outcome import Refused
from async_ckpt.storage import posix

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file to write to; it is made durable and gets its name when the block is left without an error.

    Raises:
        Refused: There is such a file, and it is not to be replaced.
        OSError: It cannot be written; nothing is left of it.
    """
    if path.exists() and not replace:
        raise Refused(f"{path} exists; --force replaces it")
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            posix.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    directory = posix.open_directory(os.fspath(path.parent))
    try:
        posix.fsync(directory)
    finally:
        os.close(directory)
