"""Tier *block replay*: every write below ext4 is logged, and a disk put together as a power cut leaves it.

Everything flushed before the cut is there; of what was not, everything up to the cut, or any part of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.disk.logged import cannot, logged_disk, mounted
from benchmarks.disk.replay import Log, Write, read_log
from tests.reliability.lives import KEEP, Promises, check, work
from tests.reliability.tier import SEED, counting, pick

WORKLOADS = pick(1, 20, 80)
STATES = pick(24, 250, 700)
"""Of each workload."""

SAVES = 6
MIB = 24


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(WORKLOADS))
def test_nothing_acknowledged_is_lost_and_nothing_torn_is_listed(
    record_property: Callable[[str, object], None], tmp_path: Path, number: int
) -> None:
    with counting(record_property, "block replay", "states of a disk after a power cut") as tally:
        if (why := cannot()) is not None:
            tally.skip(why)
        rng = random.Random(f"{SEED} {number}")
        keep = KEEP[number % len(KEEP)]
        said: list[tuple[int, str]] = []
        with logged_disk(tmp_path, mib=MIB) as disk:
            say = lambda text: said.append((disk.position(), text))
            for life in range(2):
                first = life * SAVES
                asyncio.run(work(disk.root / "run", keep, first, rng.randrange(2**32), say, SAVES // 2))
        log = read_log(disk.log)
        chosen = _chosen(log, rng)
        seen = set()
        (tmp_path / "again").mkdir()
        for (epoch, count, whole), image in log.states(disk.base, chosen, rng):
            image.tofile(tmp_path / "state.img")
            promises = Promises()
            until = log.position(epoch, count)
            promises.hear("".join(text for position, text in said if position <= until))
            try:
                with mounted(tmp_path / "state.img", tmp_path / "again") as root:
                    found = asyncio.run(check(root / "run", keep))
                promises.judge(found, keep)
            except BaseException as error:
                how = "all" if whole else "some"
                error.add_note(f"workload {number} of seed {SEED}, epoch {epoch}, {how} of {count} writes")
                raise
            seen.add(tuple(found.items()))
            tally.cases += 1
        tally.distinct = len(seen)
        tally.facts = {"writes": log.writes, "flushes": len(log.flushes)}


def _chosen(log: Log, rng: random.Random) -> list[tuple[int, int, bool]]:
    """Every cut once with all that was written, as far as there is room, and others with a part of it."""
    cuts = log.cuts()
    whole = [(epoch, count, True) for epoch, count in rng.sample(cuts, min(len(cuts), STATES // 2))]
    some = [cut for cut in cuts if cut[1]]
    return whole + [(epoch, count, False) for epoch, count in rng.choices(some, k=STATES - len(whole))]


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    from benchmarks.disk.plugin import RECORD

    (tmp_path / "base").write_bytes(bytes(8192))
    records = RECORD.pack(b"W", 0, 2) + b"ab" + RECORD.pack(b"F", 0, 0) + RECORD.pack(b"W", 1, 1) + b"c"
    (tmp_path / "log").write_bytes(records + RECORD.pack(b"W", 5, 9) + b"half")
    log = read_log(tmp_path / "log")
    first, second = 2 + RECORD.size, 2 + 3 * RECORD.size + 1
    assert log.epochs == [[Write(0, b"ab", first)], [Write(1, b"c", second)]]
    assert log.cuts() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [log.position(*cut) for cut in log.cuts()] == [0, first, first + RECORD.size, second]
    cuts = [(*cut, True) for cut in log.cuts()]
    states = [image[:3].tobytes() for _, image in log.states(tmp_path / "base", cuts, random.Random(0))]
    assert states == [b"\0\0\0", b"ab\0", b"ab\0", b"ac\0"]


def test_what_was_not_flushed_may_be_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(3 * 4096))
    log = Log([[Write(0, b"x" * 8192, 1)], [Write(8192, b"y" * 4096, 3)]], [2])
    states = set()
    for seed in range(20):
        for _, image in log.states(tmp_path / "base", [(0, 1, False), (1, 1, False)], random.Random(seed)):
            states.add(image[::4096].tobytes())
    # Blocks of the first write each for itself; once flushed, all of it.
    assert states == {b"\0\0\0", b"x\0\0", b"\0x\0", b"xx\0", b"xxy"}
