"""Every allocation of a part of a life fails, one run each, in forked children; in a bare process.

See ``nursery.ask`` for who asks. A child that dies was killed by an extension, or by the interpreter, that
does not bear the failure: its run is counted apart, with the line it was at, what it left in a directory is
looked at, and the next child goes on behind it.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from tests.reliability.allocation.lives import live, look_after
from tests.reliability.tracing.nursery import say

__all__ = ["main"]

BURST = 3000
"""As many in a row show whether there are any at all behind a number."""
_HUNG_SECS = 20
_MOST = 5
_FAULT = "fault"


class Starver:
    """Runs lives of one part over one kind of store.

    Attributes:
        kinds: How many runs came to what.
        where: What lacked memory where a wake-up of the loop was lost, or the process with it; with counts.
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
                name = signal.Signals(os.WTERMSIG(status)).name
                self.kinds[f"died of {name}"] += 1
                self.where[f"{name} in {self._last_line()}"] += 1
                wrong = self._left()
                if name == "SIGALRM":
                    wrong.append(f"it hung for {_HUNG_SECS} s, at last in {self._last_line()}")
                if wrong:
                    self._fail(left[done], burst, wrong)
                done += 1
            left = left[done:]

    def _last_line(self) -> str:
        """Where the process was that died; the handler that writes this asks for no memory."""
        told = (self.base / _FAULT).read_text(errors="replace")
        found = re.search(r'File "(?:[^"]*/)?([^"/]+)", line (\d+) in (\S+)', told)
        return "{}:{} {}".format(*found.groups()) if found else "no line"

    def _left(self) -> list[str]:
        """What must not be in the directory that a dead process left."""
        wrong: list[str] = []
        for place in self.base.glob("tmp*"):
            if self.store == "local" and (place / "runs").exists():
                status = self._fork(partial(self._look, place), wrong.extend)
                wrong += [f"whoever looked at what it left came to {status}"] if status else []
            shutil.rmtree(place)
        return wrong

    def _look(self, place: Path, out: TextIO) -> None:
        print(json.dumps(look_after(self.part, place)), file=out)

    def _child(self, numbers: list[int], burst: int) -> tuple[int, int]:
        done = 0

        def count(answer: list[Any]) -> None:
            nonlocal done
            number, kind, where, wrong = answer
            self.kinds[kind] += 1
            if where:
                self.where[where] += 1
            if wrong:
                self._fail(number, burst, wrong)
            done += 1

        status = self._fork(lambda out: self._runs(numbers, burst, out), count)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise AssertionError(f"the harness failed at {self.part}, {self.store}, {numbers[done:][:1]}")
        return done, status

    def _fork(self, work: Callable[[TextIO], None], hear: Callable[[list[Any]], None]) -> int:
        """Have a child do ``work``, hear the lines that it writes, and give its status."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(read)
                with os.fdopen(write, "w", buffering=1) as out, (self.base / _FAULT).open("w") as fault:
                    faulthandler.enable(fault, all_threads=False)
                    faulthandler.register(signal.SIGALRM, fault, all_threads=False, chain=True)
                    work(out)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read) as lines:
            for line in lines:
                hear(json.loads(line))
        return os.waitpid(child, 0)[1]

    def _runs(self, numbers: list[int], burst: int, out: TextIO) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            signal.alarm(_HUNG_SECS)
            place = Path(tempfile.mkdtemp(dir=self.base))
            finding = live(self.part, self.store, place, number, number + burst - 1)
            place.rmdir()
            if finding.kind == "lost":
                gc.collect()  # what still waits there would be closed in the midst of another life
            wrong = [*finding.wrong, finding.raised] if finding.wrong else []
            print(json.dumps([number, finding.kind, finding.where, wrong]), file=out)

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
    logging.getLogger("async_ckpt").propagate = False
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
