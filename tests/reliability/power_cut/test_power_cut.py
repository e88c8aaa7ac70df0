"""Tier *power cut*: a real kernel stops a real file system in the middle of saves, deletions and reports.

What was acknowledged before is there afterwards, what is listed is whole, and the next save works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reliability.lives import Promises
from tests.reliability.power_cut.device import Device, Kind, cannot
from tests.reliability.tier import SEED, counting, pick
from tests.reliability.tracing.nursery import ask

CUTS: dict[Kind, int] = {"ext4": pick(12, 700, 7_000), "xfs": pick(4, 300, 3_000)}
CHUNK = pick(12, 50, 250)
CHUNKS = [(kind, first) for kind, cuts in CUTS.items() for first in range(0, cuts, CHUNK)]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "first"), CHUNKS, ids=lambda value: str(value))
def test_nothing_acknowledged_is_lost_and_nothing_torn_is_listed(
    record_property: Callable[[str, object], None], kind: Kind, first: int
) -> None:
    with counting(record_property, "power cut", f"power cuts under {kind}") as tally:
        if (why := cannot(kind)) is not None:
            tally.skip(why)
        cuts = min(CHUNK, CUTS[kind] - first)
        question = {"kind": kind, "seed": SEED, "first": first, "cuts": cuts}
        answer = ask("tests.reliability.power_cut.cutting", question, timeout=1100)
        tally.cases = cuts
        tally.distinct = answer["distinct"]
        tally.facts = {"acknowledged": answer["acknowledged"]}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_not_flushed_is_gone_after_a_cut_and_what_was_is_there(tmp_path: Path, kind: Kind) -> None:
    """The knife is sharp: without that, no tier could find anything."""
    if (why := cannot(kind)) is not None:
        pytest.skip(f"NOT TRIED HERE: {why}")
    import os

    with Device(kind, tmp_path) as device:
        for name, flushed in (("flushed", True), ("not", False)):
            path = device.root / name
            path.write_bytes(b"x" * 10_000)
            if flushed:
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
        device.cut()
        with pytest.raises(OSError, match="Input/output error"):
            (device.root / "later").write_bytes(b"x")
        device.restart()
        assert (device.root / "flushed").read_bytes() == b"x" * 10_000
        lost = device.root / "not"
        assert not lost.exists() or lost.read_bytes() != b"x" * 10_000
    assert not device.root.is_mount()


def judged(lines: str, found: dict[int, int], keep: int | None) -> None:
    promises = Promises()
    promises.hear(lines)
    promises.judge(found, keep)


@pytest.mark.parametrize(
    ("lines", "found", "keep"),
    [
        ("try 1 1\n", {}, None),
        ("try 1 1\n", {1: 1}, None),
        ("try 1 1\ndone 1 1\n", {1: 1}, 1),
        ("try 1 1\ndone 1 1\ntry 2 2\n", {2: 2}, 1),
        ("try 1 1\ndone 1 1\ntry 2 2\n", {1: 1}, 1),
        ("try 1 1\ndone 1 1\ntry 1 2\n", {1: 2}, None),
        ("try 1 1\ndone 1 1\ntry 2 2\ndone 2 2\ntry 3 3\n", {2: 2, 3: 3}, 2),
        ("try 1 1\ndone 1 1\ntry 2 2\nd", {1: 1, 2: 2}, None),
    ],
)
def test_what_may_be_there_is_accepted(lines: str, found: dict[int, int], keep: int | None) -> None:
    judged(lines, found, keep)


@pytest.mark.parametrize(
    ("lines", "found", "keep"),
    [
        ("try 1 1\ndone 1 1\n", {}, 1),
        ("try 1 1\ndone 1 1\ntry 2 2\ndone 2 2\n", {1: 1}, 1),
        ("try 1 1\ndone 1 1\ntry 2 2\ndone 2 2\n", {2: 2}, 2),
        ("try 1 1\ndone 1 1\ntry 2 2\ndone 2 2\n", {2: 2}, None),
        ("try 1 1\n", {1: 2}, None),
        ("try 1 1\ntry 1 2\ndone 1 2\n", {1: 1}, None),
        ("", {5: 5}, None),
    ],
)
def test_what_may_not_be_there_or_is_missing_is_found(
    lines: str, found: dict[int, int], keep: int | None
) -> None:
    with pytest.raises(AssertionError):
        judged(lines, found, keep)


def test_what_was_said_while_the_power_failed_may_be_there_and_need_not() -> None:
    for found in ({1: 1}, {1: 1, 2: 2}):
        promises = Promises()
        promises.hear("try 1 1\ndone 1 1\ntry 2 2\n")
        promises.hear("done 2 2\n", binding=False)
        promises.judge(found, None)
