"""A process from which children are forked that need to import and compile nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.tracing.children import bare
from tests.reliability.tracing.scenarios import Scenario, act, perform, prepare

__all__ = ["Desk", "ask", "desk", "litter", "say"]

_QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def ask(module: str, question: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Have a bare process answer: it calls ``main`` of a module with the question, and prints; all JSON."""
    env = {**os.environ, **_QUIET}
    # Made here, so that it goes even when that process has to be killed.
    with _place() as place:
        command = bare(module, json.dumps({**question, "place": str(place)}))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=env)
    if done.returncode:
        raise AssertionError(f"{module} {json.dumps(question)}: status {done.returncode}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Desk:
    """Where the scripts of one process are prepared and carried out.

    Attributes:
        case: The directory that a script is carried out in.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self.case = base / "case"

    def lay_out(self, scenario: Scenario) -> Path:
        """Give the directory as the script finds it; it is made once and copied by :meth:`put`."""
        made = self._base / scenario.name
        if not made.exists():
            (made / "d").mkdir(parents=True)
            prepare(scenario, made / "d")
            _join_threads()
        return self.put(made)

    def put(self, origin: Path) -> Path:
        """Make the case a copy of ``origin``, hard links within it included."""
        shutil.rmtree(self.case, ignore_errors=True)
        _copy(origin, self.case, {})
        return self.case

    def keep(self, name: str) -> Path:
        """Set the case aside."""
        kept = self._base / name
        shutil.rmtree(kept, ignore_errors=True)
        self.case.rename(kept)
        return kept


def _copy(origin: Path, target: Path, seen: dict[int, Path]) -> None:
    target.mkdir()
    for entry in os.scandir(origin):
        if entry.is_dir(follow_symlinks=False):
            _copy(Path(entry.path), target / entry.name, seen)
        elif (first := seen.get(entry.inode())) is not None:
            (target / entry.name).hardlink_to(first)
        else:
            seen[entry.inode()] = Path(shutil.copyfile(entry.path, target / entry.name))


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """A directory, in memory where that can be had: what is judged is what a process leaves, not a disk."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="async-ckpt-", dir=where, ignore_cleanup_errors=True) as made:
        yield Path(made).resolve()


@contextlib.contextmanager
def desk(place: str | None) -> Iterator[Desk]:
    """Warm this process up, tie it to one processor; give what works in ``place`` or in one of its own."""
    logging.getLogger("async_ckpt").addHandler(logging.NullHandler())
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    here = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {here[int(worker) % len(here)]})
    with contextlib.nullcontext(Path(place)) if place is not None else _place() as base:
        _warm_up(base)
        yield Desk(base)


def _warm_up(base: Path) -> None:
    """Do once, here, what every child would do for the first time; no thread is left behind."""
    every = act(
        "save 1, save 2, report 2, list, restore, pin 1, unpin 1, delete 1, cancel 3, abandon 1, close"
    )
    for shape in ("small", "large", "frozen"):
        scenario = Scenario("warm-up", every, options={"reuse_unchanged": shape == "frozen"}, shape=shape)
        asyncio.run(perform(scenario, every, base / f"warm-up-{shape}"))
    _join_threads()
    # Nothing that is here now is looked at again: children share its pages for as long as they live.
    gc.collect()
    gc.freeze()


def _join_threads() -> None:
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()


def litter(scenario: Scenario, place: Path, *, killed: bool = False) -> list[str]:
    """Names that should not be there any more once a writer has opened and closed the directory.

    What a kill cut short of a report stays in its checkpoint, and goes with it.
    """
    root = place / "d" / scenario.below
    found = [
        f"{path.relative_to(root)}" for path in root.rglob("*") if path.name.startswith((".tmp-", ".trash-"))
    ]
    pins = root / ".pins"
    leases = [path.name for path in pins.iterdir() if path.name.startswith("lease-")] if pins.is_dir() else []
    return [name for name in found if not (killed and "/.tmp-report.json-" in name)] + leases


def say(answer: dict[str, Any]) -> None:
    """Answer what :func:`ask` asked."""
    json.dump(answer, sys.stdout)
