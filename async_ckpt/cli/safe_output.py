"""A new file that appears under its name complete, or not at all. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from async_ckpt.cli.outcome import Exit, Refused
from async_ckpt.storage import posix

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Give a file to write to; it is made durable and gets its name when the block is left without an error.

    Raises:
        Refused: There is such a file, and it is not to be replaced.
        OSError: It cannot be written; nothing is left of it.
    """
    if path.is_dir():
        raise Refused(f"{path} is a directory: name a file in it")
    if path.exists() and not replace:
        raise Refused(f"{path} exists; --force replaces it")
    if not path.parent.is_dir():
        raise Refused(f"{path}: there is no directory {path.parent}", code=Exit.IO)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            posix.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        temp.unlink(missing_ok=True)
        if error.filename is None and error.errno is not None:
            # Of a write or an fsync, which know nothing of names.
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    directory = posix.open_directory(os.fspath(path.parent))
    try:
        posix.fsync(directory)
    finally:
        os.close(directory)
