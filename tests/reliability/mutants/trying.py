"""A copy of the tree in which one safeguard at a time is missing, and what the tiers say there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import async_ckpt
from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["Finding", "Tree"]

TREE = Path(__file__).parents[3]
COPIED = ("tests", "benchmarks", "examples", "docs", "pyproject.toml", "README.md")
LIMIT_SECS = 250.0
# What a tier finds is an assertion of its own; anything else that ends a test is an accident
A_FINDING = re.compile(
    r"(?:\w+\.)*(?:AssertionError|Failed|assert|Sim(?:Leak|Deadlock|Livelock)|RestoreError)"
)
AN_ACCIDENT = re.compile(r"ImportError|ModuleNotFoundError|SyntaxError|NameError|IndentationError")


@dataclass(frozen=True)
class Finding:
    """What a killer came to.

    Attributes:
        failed: Whether a test failed.
        counted: What its tests counted; see ``tests.reliability.tier``.
        seconds: How long it took.
        output: What pytest said.
    """

    failed: bool
    counted: list[dict[str, Any]]
    seconds: float
    output: str

    @property
    def finding(self) -> str | None:
        """What the tier found, if it found something and was not only upset."""
        said = [entry["failure"] for entry in self.counted if entry["failure"]]
        # Not every test of a tier counts; those that do not are in the summary only.
        said += re.findall(r"^FAILED .*? - (.*)$", self.output, re.MULTILINE)
        fair = [text for text in said if A_FINDING.match(text) and not AN_ACCIDENT.search(text)]
        # Where the copy lay says nothing to anybody later.
        return re.sub(r"/\S*/tmp/", ".../", fair[0]) if self.failed and fair else None

    @property
    def cases(self) -> int:
        """How many cases were judged until then; a test that does not count is one."""
        passed = re.search(r"(\d+) passed", self.output)
        return sum(entry["cases"] for entry in self.counted) or int(passed[1] if passed else 0) + 1

    @property
    def not_tried(self) -> str | None:
        """Why this machine cannot run the killer, if so."""
        return next((entry["skipped"] for entry in self.counted if entry["skipped"]), None)


class Tree:
    """A copy of everything the tests need, at a place of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        unwanted = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.so.tmp")
        for name in COPIED:
            source = TREE / name
            if source.is_dir():
                shutil.copytree(source, place / name, ignore=unwanted)
            elif source.exists():
                shutil.copy(source, place / name)
        self.package = place / "async_ckpt"
        shutil.copytree(Path(async_ckpt.__file__).parent, self.package, ignore=unwanted)

    @contextlib.contextmanager
    def without(self, mutant: Mutant) -> Iterator[None]:
        """Take a safeguard out for as long as the block lasts."""
        path, before = self.package / mutant.file, mutant.read(self.package)
        self._write(path, mutant.applied(before))
        try:
            yield
        finally:
            self._write(path, before)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Compiled code is known by second and size, which two versions may share.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()

    def run(self, killer: Killer) -> Finding:
        """Run a killer here, and take from it what it started."""
        counted = self.place / "counted.json"
        counted.unlink(missing_ok=True)
        began = time.perf_counter()
        words = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={self.place / 'tmp'}"]
        words += ["-k", killer.only] if killer.only else []
        command = [sys.executable, "-m", "pytest", *words, f"tests/reliability/{killer.tests}"]
        child = subprocess.Popen(
            command,
            cwd=self.place,
            env=_environment(counted, killer),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = child.communicate(timeout=LIMIT_SECS)
        except subprocess.TimeoutExpired:
            output = b"nothing for too long"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        said = json.loads(counted.read_bytes()) if counted.exists() else []
        return Finding(
            failed=child.returncode == 1,
            counted=said,
            seconds=time.perf_counter() - began,
            output=output.decode(errors="replace")[-6000:],
        )


def _environment(counted: Path, killer: Killer) -> dict[str, str]:
    """Nothing of the run around it reaches the run inside but what says which Python it is."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COVERAGE_", "COV_CORE_", "ASYNC_CKPT_"))
    }
    return {
        **ours,
        "ASYNC_CKPT_RELIABILITY": killer.size,
        "ASYNC_CKPT_RELIABILITY_RESULTS": str(counted),
        "ASYNC_CKPT_SEED": os.environ.get("ASYNC_CKPT_SEED", "20261122"),
        "PYTHONPATH": str(counted.parent),
        # pytest shortens what it says about a failure to the width of the terminal.
        "COLUMNS": "400",
    }
