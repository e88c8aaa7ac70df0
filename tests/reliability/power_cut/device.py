"""A file system of its own on a loop device, whose power can be cut.

``EXT4_IOC_SHUTDOWN`` (fs/ext4/ext4.h; XFS has the same under ``XFS_IOC_GOINGDOWN``) with NOLOGFLUSH stops the
file system where it stands: what was not flushed is gone, as with a real power cut, and every call that
follows fails until it is mounted again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

__all__ = ["Device", "Kind", "cannot"]

Kind = Literal["ext4", "xfs"]

_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
_NO_LOG_FLUSH = struct.pack("I", 2)
_MIB = {"ext4": 48, "xfs": 320}
_MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


def cannot(kind: Kind) -> str | None:
    """Say why such a device cannot be had here, or None."""
    if os.geteuid() != 0:
        return "only root mounts file systems"
    for program in (_MAKE[kind][0], "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


class Device:
    """A small file system, made when it is entered and gone when it is left, whatever happened.

    Args:
        kind: Of file system.
        base: A directory for the image and the mount point.

    Attributes:
        root: Where it is mounted.

    Raises:
        OSError: It cannot be made or mounted; the message is the program's own.
    """

    def __init__(self, kind: Kind, base: Path) -> None:
        self._kind = kind
        self._image = base / "image"
        self.root = base / "mounted"

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(_MIB[self._kind] << 20)
        _run(*_MAKE[self._kind], str(self._image))
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Lazily, as a process that is being killed may still hold a file.
        subprocess.run(["umount", "-l", str(self.root)], check=False, capture_output=True)
        self._image.unlink(missing_ok=True)

    def cut(self) -> None:
        """Cut the power."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Bring it up again; nobody may hold a file of it any more."""
        _run("umount", str(self.root))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-t", self._kind, "-o", "loop", str(self._image), str(self.root))


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
