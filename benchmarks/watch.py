"""Watching a child from outside: its memory, and how much of the machine others used meanwhile."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Watch", "busy_seconds", "descendants", "peak_between", "processor_seconds"]

_ROLLS = re.compile(rb"^(RssAnon|RssShmem):\s+(\d+) kB", re.MULTILINE)
_TREE_EVERY = 0.25


@dataclass
class Watch:
    """Samples the memory of a process and its descendants.

    Counted is what only memory can hold: anonymous pages of all of them, and shared memory once, as
    much as the one that maps most of it. The page cache is not.
    """

    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)
    _tree: list[int] = field(default_factory=list)
    _looked: float = 0.0
    _used: dict[int, float] = field(default_factory=dict)

    def sample(self) -> None:
        """Take a sample now."""
        now = time.perf_counter()
        if now - self._looked > _TREE_EVERY:
            self._tree, self._looked = descendants(self.pid), now
            self._used |= {pid: used for pid in self._tree if (used := processor_seconds(pid)) is not None}
        own, shared = 0, 0
        for pid in self._tree:
            try:
                status = Path(f"/proc/{pid}/status").read_bytes()
            except OSError:
                continue  # it has ended
            sizes = {key: 1024 * int(value) for key, value in _ROLLS.findall(status)}
            own += sizes.get(b"RssAnon", 0)
            shared = max(shared, sizes.get(b"RssShmem", 0))
        self.samples.append((now, own + shared))

    @property
    def used(self) -> float:
        """Processor seconds of all of them, as far as was seen; who waited for whom makes no difference."""
        return sum(self._used.values())


def processor_seconds(pid: int) -> float | None:
    """What a process has used so far, its children apart; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def descendants(pid: int) -> list[int]:
    """The process and everything it started that still runs."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        found.append(parent)
        try:
            for thread in Path(f"/proc/{parent}/task").iterdir():
                todo += map(int, (thread / "children").read_text(encoding="ascii").split())
        except OSError:
            continue  # it has ended, or the kernel does not tell
    return found


def peak_between(samples: list[tuple[float, int]], base: float, end: float) -> tuple[int, int] | None:
    """Bytes at ``base``, and the most from then to ``end``; None without a sample on either side."""
    before = [size for when, size in samples if when <= base]
    during = [size for when, size in samples if base < when <= end]
    if not before or not during:
        return None
    return before[-1], max(during)


def busy_seconds() -> float:
    """Processor seconds that the machine has spent on anything since it started."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields)
    return (user + nice + system + irq + softirq + steal) / float(os.sysconf("SC_CLK_TCK"))
