"""A directory in which a racer swaps names for links to a canary, while somebody works in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt.saver import Saver
from tests.reliability.inline import run_inline

from .canary import Canary

__all__ = ["EVIL", "STEP", "Arena"]

EVIL = "evil"
STEP = 2
_EVERY = 64
"""Races after which the canary is looked at."""


def state(value: float) -> dict[str, Any]:
    return {"model": {"w": np.full(40, value)}, "optimizer": {"m": np.full(8, value), "lr": value}}


class Arena:
    """One directory with a checkpoint, one outside with another of the same step, and a racer.

    Attributes:
        run: The directory that is worked in.
        outside: Where the links lead: a checkpoint that would be read, files that could be deleted.
        canary: Watches the outside.
        outcomes: What became of the races.
        swaps: How often the names had changed places when the racer ended.
    """

    def __init__(self, place: Path) -> None:
        self.run = place / "run"
        self.outside = place / "outside"
        self.outcomes: Counter[str] = Counter()
        self.swaps = 0
        run_inline(_save(self.run, 1.0))
        run_inline(_save(self.outside, 666.0))
        (self.run / ".pins").mkdir()
        (self.outside / ".pins").mkdir()
        for name in (".pins/pin-step-00000002", "some", "files"):
            (self.outside / name).touch()
        self.canary = Canary(self.outside)

    def link(self, name: str, to: str) -> None:
        """Make a link in the directory that leads outside."""
        (self.run / name).symlink_to(self.outside / to)

    @contextlib.contextmanager
    def racing(self, one: str, other: str) -> Iterator[None]:
        """Let two names of the directory change places meanwhile."""
        script = str(Path(__file__).with_name("racer.py"))
        command = [sys.executable, "-I", "-S", script, str(self.run), one, other]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as racer:
            assert racer.stdout is not None
            try:
                assert racer.stdout.readline() == "ready\n"
                yield
            finally:
                racer.send_signal(signal.SIGTERM)
                self.swaps += int(racer.stdout.read() or 0)

    async def race(
        self,
        races: int,
        body: Callable[[], Coroutine[Any, Any, str]],
        arm: Callable[[], object] = lambda: None,
    ) -> None:
        """Arm and run ``body``, again and again, and look whether the canary still sleeps."""
        for number in range(races):
            arm()
            self.outcomes[await body()] += 1
            if number % _EVERY == 0:
                self.look(number)
        self.look(races)

    def look(self, number: int) -> None:
        touched = self.canary.touched()
        assert not touched, f"by race {number} the canary was touched: {touched[:9]}"

    def rearm(self, name: str, make: Callable[[Path], object], to: str) -> None:
        """See to it that of ``name`` and the evil one, one is what ``make`` makes and the other the link.

        While one of them is missing the racer cannot do anything.
        """
        both = [self.run / name, self.run / Path(name).with_name(EVIL)]
        missing = [path for path in both if not os.path.lexists(path)]
        if len(missing) == 2:
            both[1].symlink_to(self.outside / to)
            missing.pop()
        if not missing:
            return
        left = both[1 - both.index(missing[0])]
        if left.is_symlink():
            fresh = self.run / "fresh"
            make(fresh)
            fresh.rename(missing[0])
        else:
            missing[0].symlink_to(self.outside / to)

    def clear(self, prefix: str) -> None:
        """Remove what was rightly left: names that were links at the wrong moment."""
        gone = self.run / "gone"
        for name in os.listdir(self.run):
            if name.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    # Under a name that the racer does not know, it stays what it is.
                    (self.run / name).rename(gone)
                    gone.unlink() if gone.is_symlink() else shutil.rmtree(gone)

    def close(self) -> None:
        self.canary.close()


async def _save(directory: Path, value: float) -> None:
    async with Saver(directory) as saver:
        await saver.save(state(value), STEP)
