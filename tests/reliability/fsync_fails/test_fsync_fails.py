"""Tier *fsync fails*: the disk below ext4 refuses one write or one flush, and every later one succeeds.

The kernel then says once that an ``fsync`` failed, and forgets it: a second ``fsync`` of the same file
succeeds over data that is on no disk. What is called durable all the same has to be there once the machine
starts again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from async_ckpt import CheckpointError, SaveError, Saver
from benchmarks.disk.logged import cannot, logged_disk, mounted
from tests.reliability.lives import Promises, check, state_of
from tests.reliability.tier import counting, pick

MIB = 24
CALLS = pick((1, 3), tuple(range(1, 25)), tuple(range(1, 41)))
"""Which call fails, counted from the moment the save begins; a save and the two behind it make fewer."""

SIZES = pick((10,), (10, 160_000), (10, 3_000, 160_000))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", ["flush", "write"])
def test_one_refusal_loses_nothing_acknowledged(
    record_property: Callable[[str, object], None], tmp_path: Path, what: str, call: int, size: int
) -> None:
    with counting(record_property, "fsync fails", f"a {what} that fails") as tally:
        if (why := cannot()) is not None:
            tally.skip(why)
        promises, outcomes = Promises(), Counter[str]()
        with logged_disk(tmp_path, mib=MIB) as disk:
            asyncio.run(_save(disk.root / "run", 1, size, promises, outcomes))
            assert outcomes == {"committed": 1}
            disk.control.write_text(f"{what} {call}")
            for step in (2, 3):
                asyncio.run(_save(disk.root / "run", step, size, promises, outcomes))
            hit = disk.control.read_text() == "failed"
            disk.control.unlink()
        (tmp_path / "again").mkdir()
        with mounted(disk.image, tmp_path / "again", check=True) as root:
            found = asyncio.run(check(root / "run", None))
        promises.judge(found, None)
        tally.cases = 1
        tally.facts = {"hit": int(hit), **outcomes}


async def _save(directory: Path, step: int, size: int, promises: Promises, outcomes: Counter[str]) -> None:
    promises.hear(f"try {step} {step}\n")
    try:
        async with Saver(directory, max_to_keep=None) as saver:
            await saver.save(state_of(step, size), step)
    except SaveError as error:
        outcomes[error.outcome] += 1
    except CheckpointError as error:
        outcomes[type(error).__name__] += 1
    else:
        outcomes["committed"] += 1
        promises.hear(f"done {step} {step}\n")


def test_the_knife_is_sharp(tmp_path: Path) -> None:
    """A write that is refused fails one ``fsync``; the next one succeeds, and the data is not there."""
    if (why := cannot()) is not None:
        pytest.skip(f"NOT TRIED HERE: {why}")
    import os

    with logged_disk(tmp_path, mib=MIB) as disk:
        path = disk.root / "file"
        path.write_bytes(b"A" * 4096)
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        os.pwrite(fd, b"B" * 4096, 0)
        disk.control.write_text("write 1")
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        disk.control.unlink()
        os.fsync(fd)
        assert os.pread(fd, 1, 0) == b"B"
        os.close(fd)
    (tmp_path / "again").mkdir()
    with mounted(disk.image, tmp_path / "again") as root:
        assert (root / "file").read_bytes() == b"A" * 4096
