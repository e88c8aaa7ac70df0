"""Which call is hit, and how. Pure."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

__all__ = ["CODES", "NONE", "TIMES", "Fault", "Verdict"]

CODES = ("EIO", "ENOSPC", "EDQUOT", "EINTR", "EMFILE", "EACCES", "EROFS", "ESTALE")
TIMES = {"once": 1, "twice": 2, "for ever": 1 << 30}
_PATIENCE = 40
"""How often a call is interrupted at most: Python repeats it as often, and "for ever" would be literal."""

Verdict = Literal["let", "fail", "shorten", "kill"]


@dataclass(frozen=True)
class Fault:
    """What happens to the calls of a child, counted over all its threads.

    Attributes:
        kind: ``none``, ``kill``, ``short`` or the name of an error.
        at: The number of the call that is hit first, from 1.
        times: How many calls of that name are hit, that one included.
    """

    kind: str = "none"
    at: int = 0
    times: int = 1

    def __str__(self) -> str:
        often = next((words for words, times in TIMES.items() if times == self.times), f"{self.times} times")
        return f"{self.kind} at call {self.at}, {often}"

    @property
    def code(self) -> int:
        """The error's number."""
        return int(getattr(errno, self.kind))

    @property
    def most(self) -> int:
        """How many calls are hit at most."""
        return min(self.times, _PATIENCE) if self.kind == "EINTR" else self.times

    def verdict(self, number: int, name: str, hit: str | None, hits: int) -> Verdict:
        """Say what becomes of a call.

        Args:
            number: Its number, from 1.
            name: Its name.
            hit: The name of the call that was hit first, None if none was yet.
            hits: How many were hit.
        """
        if self.kind == "none" or number < self.at or hits >= self.most:
            return "let"
        if hit is None and number != self.at:
            return "let"
        if hit is not None and name != hit:
            return "let"
        return "kill" if self.kind == "kill" else "shorten" if self.kind == "short" else "fail"


NONE = Fault()
