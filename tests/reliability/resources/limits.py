"""Real limits of a machine, each as a block: what stands inside it has too little of something.

Entered, a block gives the directory to save into and what brings the resource back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.power_cut.device import Device

__all__ = ["LIMITS", "Limit", "Limited"]


@dataclass
class Limited:
    """A directory, and how its limit is applied and lifted.

    Attributes:
        root: Where checkpoints go.
        apply: Takes the resource away.
        lift: Gives it back.
        saver: Options of the saver.
        large: Whether the save under the limit is of a large state.
    """

    root: Path
    apply: Callable[[], object] = lambda: None
    lift: Callable[[], object] = lambda: None
    saver: dict[str, Any] = field(default_factory=dict)
    large: bool = True


@dataclass(frozen=True)
class Limit:
    """One case.

    Attributes:
        name: What it is called.
        make: The block, given an empty directory.
        outcome: What the save under the limit has to come to: ``"error"``, ``"patience"``, or ``"either"``.
    """

    name: str
    make: Callable[[Path], contextlib.AbstractContextManager[Limited]]
    outcome: str


def _run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def _tmpfs(place: Path, options: str) -> Iterator[Path]:
    root = place / "tmpfs"
    root.mkdir()
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root))
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)


@contextlib.contextmanager
def small_tmpfs(place: Path) -> Iterator[Limited]:
    with _tmpfs(place, "size=1M") as root:
        yield Limited(root / "run", lift=lambda: _run("mount", "-o", "remount,size=64M", str(root)))


@contextlib.contextmanager
def no_inodes(place: Path) -> Iterator[Limited]:
    with _tmpfs(place, "size=64M,nr_inodes=30") as root:
        fillers: list[Path] = []

        def fill() -> None:
            with contextlib.suppress(OSError):
                for number in range(100):
                    (root / f"filler-{number}").touch()
                    fillers.append(root / f"filler-{number}")

        def clear() -> None:
            for path in fillers:
                path.unlink()

        yield Limited(root / "run", fill, clear, large=False)


def _filled(root: Path) -> Limited:
    filler = root / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    return Limited(root / "run", fill, filler.unlink)


@contextlib.contextmanager
def full_ext4(place: Path) -> Iterator[Limited]:
    with Device("ext4", place) as device:
        yield _filled(device.root)


@contextlib.contextmanager
def btrfs_quota(place: Path) -> Iterator[Limited]:
    image, root = place / "image", place / "btrfs"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    _run("mkfs.btrfs", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(root))
    try:
        _run("btrfs", "quota", "enable", str(root))
        _run("btrfs", "subvolume", "create", str(root / "s"))
        limit = ("btrfs", "qgroup", "limit")
        yield Limited(
            root / "s" / "run",
            lambda: _run(*limit, "1M", str(root / "s")),
            lambda: _run(*limit, "none", str(root / "s")),
        )
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False, capture_output=True)


@contextlib.contextmanager
def _rlimit(place: Path, kind: int, soft: Callable[[], int], **more: Any) -> Iterator[Limited]:
    before = resource.getrlimit(kind)
    yield Limited(
        place / "run",
        lambda: resource.setrlimit(kind, (soft(), before[1])),
        lambda: resource.setrlimit(kind, before),
        **more,
    )
    resource.setrlimit(kind, before)


def file_size(place: Path) -> contextlib.AbstractContextManager[Limited]:
    return _rlimit(place, resource.RLIMIT_FSIZE, lambda: 1 << 16)


def open_files(place: Path) -> contextlib.AbstractContextManager[Limited]:
    return _rlimit(place, resource.RLIMIT_NOFILE, lambda: len(os.listdir("/proc/self/fd")), large=False)


def address_space(place: Path) -> contextlib.AbstractContextManager[Limited]:
    def soft() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * resource.getpagesize() + (1 << 20)

    return _rlimit(place, resource.RLIMIT_AS, soft)


@contextlib.contextmanager
def memory_cgroup(place: Path) -> Iterator[Limited]:
    group = Path("/sys/fs/cgroup/memory") / f"async-ckpt-{os.getpid()}"
    group.mkdir()
    tasks = group.parent / "cgroup.procs"

    def enter() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        (group / "memory.limit_in_bytes").write_text(str(used + (40 << 20)))
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield Limited(
            place / "run", enter, lambda: tasks.write_text(str(os.getpid())), {"staging_bytes": 8 << 20}
        )
    finally:
        tasks.write_text(str(os.getpid()))
        group.rmdir()


@contextlib.contextmanager
def slow_disk(place: Path) -> Iterator[Limited]:
    # Two megabytes a second by the saver's own throttle: not every disk here can be slowed down from outside.
    yield Limited(place / "run", saver={"io_bytes_per_sec": 12e6})


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[Limited]:
    with Device("ext4", place) as device:
        thaw = threading.Timer(2.0, lambda: _run("fsfreeze", "-u", str(device.root)))

        def freeze() -> None:
            _run("fsfreeze", "-f", str(device.root))
            thaw.start()

        try:
            yield Limited(device.root / "run", freeze)
        finally:
            thaw.join()


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[Limited]:
    with Device("ext4", place) as device:

        def emergency() -> None:
            # As the kernel does it after an error: files that are open for writing do not keep it from that.
            fd = os.open(device.root, os.O_RDONLY)
            os.close(fd)
            _run("mount", "-o", "remount,abort", str(device.root))

        yield Limited(device.root / "run", emergency, device.restart)


@contextlib.contextmanager
def moved_away(place: Path) -> Iterator[Limited]:
    root, away = place / "run", place / "away"

    def replace() -> None:
        root.rename(away)
        root.mkdir()

    def put_back() -> None:
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        root.rmdir()
        away.rename(root)

    yield Limited(root, replace, put_back)


LIMITS = {
    limit.name: limit
    for limit in (
        Limit("a tmpfs of 1 MiB", small_tmpfs, "error"),
        Limit("no inodes left", no_inodes, "error"),
        Limit("a full ext4", full_ext4, "error"),
        Limit("a quota of btrfs", btrfs_quota, "error"),
        Limit("a limit of the file size", file_size, "error"),
        Limit("a limit of open files", open_files, "error"),
        Limit("a limit of address space", address_space, "error"),
        Limit("a cgroup with little memory", memory_cgroup, "patience"),
        Limit("a slow disk", slow_disk, "patience"),
        Limit("a file system frozen for 2 s", frozen, "patience"),
        Limit("a file system turned read-only", read_only, "either"),
        Limit("a directory replaced by another one", moved_away, "either"),
    )
}
