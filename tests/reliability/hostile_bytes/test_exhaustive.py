"""Every byte of three small checkpoints damaged, every file cut at every length: right value or our error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_ckpt.saver import Saver
from async_ckpt.storage.memory import MemoryStore
from tests.reliability.inline import run_inline
from tests.reliability.tier import SEED, counting, pick

from .checkpoints import KINDS, Made, make
from .damaging import Damage, Disk, Judge, Memory, judge_all, quietly
from .watching import Watch, watched

TIER = "hostile bytes"
PARTS = 2
BITS = tuple(1 << bit for bit in range(8))
EVERY = {
    "memory": pick((89, BITS[:1]), (1, (*BITS, 0xFF)), (1, tuple(range(1, 256)))),
    "disk": pick((331, (0xFF,)), (1, (0xFF,)), (1, (*BITS, 0xFF))),
}
"""For each place: every how many-th byte is damaged, and what is changed in it, one after the other."""
CUTS = pick(331, 1, 1)
"""At every how many-th length a file is cut."""


def flips(made: Made, where: str, part: int) -> Iterator[Damage]:
    stride, masks = EVERY[where]
    for file in made.files():
        whole = file.read_bytes()
        for at in range((SEED + part) % (stride * PARTS), len(whole), stride * PARTS):
            for mask in masks if stride == 1 else [random.Random(at).choice(BITS)]:
                yield Damage(file.name, at, whole[at] ^ mask)


def cuts(made: Made, part: int) -> Iterator[Damage]:
    for file in made.files():
        for at in range((SEED + part) % (CUTS * PARTS), file.stat().st_size, CUTS * PARTS):
            yield Damage(file.name, at, None)


def run(
    record: Callable[[str, object], None],
    directory: Path,
    kind: str,
    where: str,
    damages: Callable[[Made], Iterator[Damage]],
    what: str,
) -> None:
    made = make(directory / "run", kind)
    with counting(record, TIER, f"{what} of {kind!r}, {where}") as tally, quietly():
        place: Memory | Disk = Memory(made) if where == "memory" else Disk(made)
        store: Any = MemoryStore(place.place, hops=False) if isinstance(place, Memory) else made.directory

        async def go() -> Watch:
            saver = Saver(store)
            judge = Judge(made, saver)
            for _ in range(2):
                # What is imported and allocated once is not held against an input.
                await saver.restore()
                await saver.verify(max(made.states))
            with watched(made.directory) as watch:
                await judge_all(judge, place, watch, damages(made), lambda: _count(tally))
            await saver.aclose()
            return watch

        try:
            watch = run_inline(go())
        finally:
            if isinstance(place, Disk):
                place.close()
        tally.distinct = tally.cases
        tally.facts["slowest_ms"] = round(watch.slowest * 1e3, 1)


def _count(tally: Any) -> None:
    tally.cases += 1


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("where", EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_byte_gives_the_right_value_or_our_error(
    place: Path, record_property: Callable[[str, object], None], kind: str, where: str, part: int
) -> None:
    run(record_property, place, kind, where, lambda made: flips(made, where, part), "damaged bytes")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_gives_the_right_value_or_our_error(
    place: Path, record_property: Callable[[str, object], None], kind: str, part: int
) -> None:
    run(record_property, place, kind, "disk", lambda made: cuts(made, part), "lengths cut")


@pytest.mark.timeout(600)
@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_with_threads_it_is_the_same(
    place: Path, record_property: Callable[[str, object], None], kind: str
) -> None:
    """The others call where the package hops to a thread; here it hops, and the watch hears every thread."""
    made = await asyncio.to_thread(make, place / "run", kind)
    draw = random.Random(SEED)
    with counting(record_property, TIER, f"damages of {kind!r}, read by threads") as tally, quietly():
        disk = Disk(made)
        async with Saver(made.directory) as saver:
            judge = Judge(made, saver)
            await saver.restore()
            await saver.verify(max(made.states))
            with watched(made.directory) as watch:
                drawn = [*flips(made, "disk", 0), *cuts(made, 1)]
                damages = draw.sample(drawn, min(len(drawn), pick(10, 300, 3000)))
                await judge_all(judge, disk, watch, iter(damages), lambda: _count(tally))
        disk.close()
