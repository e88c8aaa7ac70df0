"""Run one tier in a process of its own and keep what it counted."""

from __future__ import annotations

import datetime as dt
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks import machine
from tests.reliability.report.records import Entry, Run

__all__ = ["HERE", "TREE", "folder_of", "folders", "run_tier"]

HERE = Path(__file__).parents[1]
TREE = HERE.parents[1]
TOOLS = {
    "strace": "--version",
    "nbdkit": "--version",
    "nbdfuse": "--version",
    "mkfs.ext4": "-V",
    "mkfs.xfs": "-V",
    "mkfs.btrfs": "--version",
}


def folders() -> list[str]:
    """The tiers that are there, by the names of their folders; a file of tests is a tier too."""
    found = {path.relative_to(HERE).parts[0] for path in HERE.rglob("test_*.py")}
    return sorted(found - {"report"})


def folder_of(tier: str) -> str | None:
    """The folder of a tier, however its name is spelled; None if there is none."""
    return next((name for name in folders() if _plain(name) == _plain(tier)), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", " ", name.removesuffix(".py"))


def run_tier(folder: str, size: str, *, processes: int = 2) -> Run:
    """Run all tests of a tier at a size, with their output where this process has its own."""
    began, started, used = dt.datetime.now(dt.UTC), time.perf_counter(), _cpu_seconds()
    revision = machine.revision()
    target = f"tests/reliability/{folder}"
    words = ["-m", "pytest", "-q", "-n", str(processes), target]
    with tempfile.TemporaryDirectory(prefix="reliability-") as place:
        counted = Path(place) / "counted.json"
        env = {
            **os.environ,
            "ASYNC_CKPT_RELIABILITY": size,
            "ASYNC_CKPT_RELIABILITY_RESULTS": str(counted),
        }
        done = subprocess.run([sys.executable, *words], cwd=TREE, env=env, check=False)
        data = counted.read_bytes() if counted.exists() else b"[]"
    return Run(
        folder=folder,
        size=size,
        command=f"ASYNC_CKPT_RELIABILITY={size} python {' '.join(words)}",
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=round(time.perf_counter() - started, 1),
        revision=revision,
        machine=machine.facts(Path(tempfile.gettempdir())),
        tools=tools(),
        passed=done.returncode == 0,
        entries=msgspec.json.decode(data, type=list[Entry]),
        cpu_seconds=round(_cpu_seconds() - used, 1),
    )


def _cpu_seconds() -> float:
    """What the children of this process have used so far, those of theirs included that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tools() -> dict[str, str]:
    """The versions of the programs that the tiers use, of those that are there."""
    found = {}
    for name, word in TOOLS.items():
        try:
            done = subprocess.run([name, word], capture_output=True, text=True, check=False, timeout=10)
        except OSError:
            continue
        version = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        found[name] = version[0] if version else "unknown"
    return found
