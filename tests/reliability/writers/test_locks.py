"""Two processes that want to write: the second is told at once who the first is, and does not wait.

What one process alone can show is in ``tests/storage/test_local_directory.py`` (a second store, a forked
child, a lock file full of rubbish) and ``test_local_races.py`` (one that goes or comes between two calls).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import async_ckpt
from async_ckpt import DirectoryLockedError, Saver
from tests.reliability.inline import run_inline
from tests.reliability.tier import counting, pick

TIER = "writers"
HERE = Path(__file__).parent
PATHS = [str(Path(async_ckpt.__file__).parents[1]), str(HERE.parents[2])]

Record = Callable[[str, object], None]


class Owner:
    """Another process that holds the directory; it is killed at the end, stopped or not."""

    def __init__(self, process: subprocess.Popen[str], told: IO[str], asked: IO[str]) -> None:
        self.pid = process.pid
        self.process = process
        self._told = told
        self._asked = asked

    def save(self, step: int) -> None:
        self._asked.write(f"{step}\n")
        self._asked.flush()
        assert self._told.readline() == "saved\n"

    def die(self) -> None:
        self.process.kill()
        self.process.wait()


def start(directory: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "contender.py"), str(directory), what]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)


@contextlib.contextmanager
def owner(directory: Path) -> Iterator[Owner]:
    with start(directory, "own") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield Owner(process, process.stdout, process.stdin)
        finally:
            process.kill()


async def try_to_write(directory: Path, step: int) -> None:
    async with Saver(directory) as saver:
        await saver.save({"w": np.full(9, float(step))}, step)


async def steps(directory: Path) -> list[int]:
    async with Saver(directory) as saver:
        return [found.step for found in await saver.checkpoints()]


def refused(directory: Path) -> DirectoryLockedError:
    with pytest.raises(DirectoryLockedError) as caught:
        run_inline(try_to_write(directory, 99))
    return caught.value


@pytest.mark.timeout(60)
def test_a_stopped_owner_is_still_the_owner(place: Path, record_property: Record) -> None:
    with counting(record_property, TIER, "states of a stopped owner") as tally, owner(place) as first:
        first.save(1)
        os.kill(first.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED)
        error = refused(place)
        assert error.owner is not None
        assert f"process {first.pid} on " in error.owner
        assert error.path == str(place)
        assert run_inline(steps(place)) == [1], "readers need no lock"
        os.kill(first.pid, signal.SIGCONT)
        first.save(2)
        os.kill(first.pid, signal.SIGSTOP)
        first.die()
        run_inline(try_to_write(place, 3))
        assert run_inline(steps(place)) == [1, 2, 3]
        tally.cases = 4


def described(**changes: Any) -> bytes:
    fields = {
        "pid": os.getpid(),
        "host": "elsewhere",
        "since": "2020-01-01T00:00:00+00:00",
        "boot": "another",
    }
    return json.dumps(fields | changes).encode()


STALE = {
    "whatever the dead owner wrote": None,
    "the number of a process that lives": described(),
    "the number of init": described(pid=1),
    "this boot, this host and a living process": described(
        boot=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        host=os.uname().nodename,
        pid=os.getppid(),
    ),
    "nothing": b"",
}


@pytest.mark.timeout(60)
def test_the_lock_of_a_dead_owner_holds_nobody_up(place: Path, record_property: Record) -> None:
    """The kernel's lock counts and not the words: nobody asks whether a process of that number lives."""
    with counting(record_property, TIER, "stale locks") as tally:
        with owner(place) as first:
            first.save(1)
            refused(place)
            first.die()
        for step, text in enumerate(STALE.values(), 2):
            if text is not None:
                (place / ".lock").write_bytes(text)
            run_inline(try_to_write(place, step))
            assert run_inline(steps(place))[-1] == step
            tally.cases += 1


@pytest.mark.timeout(1800)
def test_of_several_that_want_to_write_one_does(place: Path, record_property: Record) -> None:
    rounds = pick(60, 2000, 20_000)
    with counting(record_property, TIER, "tries of three processes to become the writer") as tally:
        others = [start(place, str(rounds)) for _ in range(3)]
        try:
            found = [json.loads(other.communicate()[0]) for other in others]
        finally:
            for other in others:
                other.kill()
        tally.facts = {kind: sum(told[kind] for told in found) for kind in found[0]}
        tally.cases = 3 * rounds
        assert tally.facts["together"] == 0
        assert tally.facts["won"] + tally.facts["lost"] == tally.cases
        assert tally.facts["won"] > 0
