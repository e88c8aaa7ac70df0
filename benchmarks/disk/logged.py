"""An ext4 file system on a disk that remembers every write."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.disk import plugin

__all__ = ["LoggedDisk", "cannot", "logged_disk", "mounted", "run"]

_PATIENCE_SECS = 20.0
_PROGRAMS = ("nbdkit", "nbdfuse", "mkfs.ext4", "losetup", "blockdev", "mount", "umount")


def cannot() -> str | None:
    """Say why such a disk cannot be had here, or None."""
    if os.geteuid() != 0:
        return "only root mounts file systems"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed" if missing else None


class LoggedDisk:
    """A disk while it is written to.

    Attributes:
        base: The image as it was before the first write.
        log: The file that every write and flush is appended to.
        root: Where it is mounted.
        image: What the disk holds.
        control: A file that says which call is to fail; see :mod:`benchmarks.disk.plugin`.
    """

    def __init__(self, place: Path) -> None:
        self.base, self.log, self.root = place / "base.img", place / "log", place / "mounted"
        self.image, self.control = place / "disk.img", place / "control"

    def position(self) -> int:
        """How many bytes of log there are by now."""
        return self.log.stat().st_size


@contextlib.contextmanager
def logged_disk(place: Path, *, mib: int) -> Iterator[LoggedDisk]:
    """Make a disk below ``place``, mount it, and take everything down again, whatever happened.

    Args:
        place: An empty directory.
        mib: Its size.

    Raises:
        OSError: It cannot be made or mounted here.
    """
    disk = LoggedDisk(place)
    front = place / "front"
    front.mkdir()
    disk.root.mkdir()
    _format(disk.base, mib)
    shutil.copyfile(disk.base, disk.image)
    disk.log.touch()
    command = ["nbdfuse", str(front / "disk"), "--command", "nbdkit", "-s", "--exit-with-parent"]
    command += [
        "python",
        str(Path(plugin.__file__)),
        f"image={disk.image}",
        f"log={disk.log}",
        f"control={disk.control}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        device = ""
        try:
            _wait(front / "disk", server)
            device = run("losetup", "-f", "--show", str(front / "disk")).strip()
            run("mount", "-t", "ext4", device, str(disk.root))
            yield disk
        finally:
            for words in (
                ("umount", "-l", str(disk.root)),
                ("losetup", "-d", device),
                ("umount", "-l", str(front)),
            ):
                if words[-1]:
                    subprocess.run(words, check=False, capture_output=True)
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            server.kill()


def _format(image: Path, mib: int) -> None:
    with image.open("wb") as file:
        file.truncate(mib << 20)
    # Without lazy work in the background, which would fill the log with what nobody did.
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", str(image))


def _wait(file: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECS
    while not file.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            said = b"" if server.poll() is None or server.stderr is None else server.stderr.read()
            raise OSError(f"nbdfuse does not come up: {said.decode(errors='replace').strip()}")
        time.sleep(0.02)


@contextlib.contextmanager
def mounted(image: Path, root: Path, *, check: bool = False) -> Iterator[Path]:
    """Mount an image, as the next start of the machine would.

    Args:
        image: What the disk holds.
        root: Where it is mounted.
        check: Run ``e2fsck`` before, as a machine does with a file system that has seen an error.
    """
    if check:
        done = subprocess.run(["e2fsck", "-f", "-y", str(image)], check=False, capture_output=True, text=True)
        if done.returncode & ~3:  # 1 and 2 say that it mended something
            raise OSError(f"e2fsck {image}: {done.stdout.strip()}")
    # Not `mount -o loop`: that takes a device which still has an earlier state of the same file in its cache.
    device = run("losetup", "-f", "--show", str(image)).strip()
    try:
        run("blockdev", "--flushbufs", device)
        run("mount", "-t", "ext4", device, str(root))
        try:
            yield root
        finally:
            done = subprocess.run(["umount", str(root)], check=False, capture_output=True)
            if done.returncode:
                subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=False, capture_output=True)


def run(*words: str) -> str:
    """Run a program to its end and give what it printed.

    Raises:
        OSError: It failed; the message is its own.
    """
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
