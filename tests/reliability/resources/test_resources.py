"""Tier *resources*: too little of something, for real: an error that names it, or patience.

Older checkpoints stay whole, the next save works once there is enough again, nothing is left behind, and the
event loop goes on meanwhile.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.resources.limits import LIMITS
from tests.reliability.tier import counting, pick
from tests.reliability.tracing.nursery import ask

NEEDS = {
    "a full ext4": "mkfs.ext4",
    "a quota of btrfs": "mkfs.btrfs",
    "a file system frozen for 2 s": "fsfreeze",
}
WORDS = {
    "a tmpfs of 1 MiB": "No space left",
    "no inodes left": "No space left",
    "a full ext4": "No space left",
    "a quota of btrfs": "Disk quota exceeded",
    "a limit of the file size": "File too large",
    "a limit of open files": "Too many open files",
}
CASES = list(LIMITS)[:: pick(3, 1, 1)]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CASES)
def test_an_error_that_names_it_or_patience(
    record_property: Callable[[str, object], None], name: str
) -> None:
    with counting(record_property, "resources", "kinds of too little") as tally:
        if os.geteuid() != 0:
            tally.skip("only root mounts file systems and makes cgroups")
        if name in NEEDS and shutil.which(NEEDS[name]) is None:
            tally.skip(f"{NEEDS[name]} is not installed")
        if "cgroup" in name and not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
            tally.skip("there is no memory cgroup of version 1")
        question = {"limit": name, "in_memory": "cgroup" not in name}
        answer = ask("tests.reliability.resources.saving", question, timeout=170)
        tally.cases = 1
        tally.facts = answer
        expected = LIMITS[name].outcome
        if expected != "either":
            assert (answer["error"] is None) == (expected == "patience"), answer
        if name in WORDS:
            assert WORDS[name] in answer["error"], answer
        if expected == "patience":
            assert answer["ticks"] > 3, answer
