"""Every allocation of a part of a life fails, one run each, in forked children; in a bare process.

See ``nursery.ask`` for who asks. A child that dies was killed by an extension, or by the interpreter, that
does not bear the failure: its run is counted apart, and the next child goes on behind it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.reliability.allocation.lives import live
from tests.reliability.tracing.nursery import say

__all__ = ["main"]

BURST = 100
"""As many in a row show whether there are any at all behind a number."""
_HUNG_SECS = 20
_MOST = 5


class Starver:
    """Runs lives of one part over one kind of store.

    Attributes:
        kinds: How many runs came to what.
        where: The callbacks of the loop that were lost, with their counts.
        failures: What must not be, with the command that shows it again.
    """

    def __init__(self, part: str, store: str, base: Path) -> None:
        self.part, self.store, self.base = part, store, base
        self.kinds = Counter[str]()
        self.where = Counter[str]()
        self.failures: list[str] = []

    def total(self) -> int:
        """How many allocations the part makes."""
        low, high = 1, 1 << 17
        while low < high:
            middle = (low + high) // 2
            counts = self.kinds.copy()
            self.run([middle], BURST)
            harmless = self.kinds - counts == Counter(unharmed=1)
            self.kinds, self.failures = counts, []
            low, high = (low, middle) if harmless else (middle + 1, high)
        self.where.clear()
        return low - 1

    def run(self, numbers: Iterable[int], burst: int) -> None:
        """Let allocation ``n`` fail, and as many behind it as make a burst, for each of some numbers."""
        left = list(numbers)
        while left and len(self.failures) < _MOST:
            done, status = self._child(left, burst)
            if done < len(left):
                # The one that it was at took it along.
                self.kinds[f"died of {signal.Signals(os.WTERMSIG(status)).name}"] += 1
                done += 1
            left = left[done:]

    def _child(self, numbers: list[int], burst: int) -> tuple[int, int]:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(read)
                with os.fdopen(write, "w", buffering=1) as out:
                    self._runs(numbers, burst, out)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        done = 0
        with os.fdopen(read) as lines:
            for line in lines:
                number, kind, where, wrong = json.loads(line)
                self.kinds[kind] += 1
                if where:
                    self.where[where] += 1
                if wrong:
                    self._fail(number, burst, wrong)
                done += 1
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise AssertionError(f"the harness failed at {self.part}, {self.store}, {numbers[done:][:1]}")
        return done, status

    def _runs(self, numbers: list[int], burst: int, out: Any) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            signal.alarm(_HUNG_SECS)
            place = Path(tempfile.mkdtemp(dir=self.base))
            finding = live(self.part, self.store, place, number, number + burst - 1)
            place.rmdir()
            print(json.dumps([number, finding.kind, finding.where, finding.wrong]), file=out)

    def _fail(self, number: int, burst: int, wrong: list[str]) -> None:
        again = {"part": self.part, "store": self.store, "numbers": [number], "burst": burst}
        code = f"from {__name__} import main; main({json.dumps(again)!r})"
        told = "; ".join(wrong)
        self.failures.append(
            f"{self.part}, {self.store}: allocation {number} of a burst of {burst}: {told}\n"
            f"    again: python -c {shlex.quote(code)}"
        )


def main(question: str) -> None:
    """Answer ``{"part", "store", "share": [k, n], "stride", "burst"}``, or for ``"numbers"`` given."""
    asked = json.loads(question)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="async-ckpt-allocation-", dir=where) as base:
        starver = Starver(asked["part"], asked["store"], Path(base))
        for _ in range(3):
            live(asked["part"], asked["store"], Path(base), 0, 0)
        gc.collect()
        gc.freeze()
        if "numbers" in asked:
            total, numbers = 0, asked["numbers"]
        else:
            total = starver.total()
            first, stride = asked["first"], asked["stride"]
            numbers = range(1 + first, total + 1, stride)
        starver.run(numbers, asked["burst"])
    say(
        {
            "total": total,
            "kinds": starver.kinds,
            "where": starver.where,
            "failures": starver.failures,
        }
    )
