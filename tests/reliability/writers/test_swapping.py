"""Somebody who swaps names for links to elsewhere: elsewhere is never read, written or deleted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_ckpt.errors import CheckpointError
from async_ckpt.saver import Saver
from async_ckpt.storage.local import LocalStore
from tests.reliability.hostile_bytes.damaging import quietly
from tests.reliability.inline import run_inline
from tests.reliability.tier import counting, pick
from tests.saver.conftest import assert_same

from .arena import EVIL, STEP, Arena, state

TIER = "writers"
NAME = f"step-{STEP:08d}"
OTHER = "step-00000003"
TRASH, TEMP = ".trash-step-00000005-00", ".tmp-step-00000006-00"
RACES = {
    "restore, the checkpoint is swapped": 25_000,
    "restore, its manifest is swapped": 10_000,
    "restore, a tensor file is swapped": 10_000,
    "pin and lease, their directory is swapped": 15_000,
    "prune, the checkpoint is swapped": 15_000,
    "sweep, the trash is swapped": 8_000,
    "sweep, a dead attempt is swapped": 7_000,
    "sweep, a directory in the trash is swapped": 8_000,
    "save, the attempt is swapped": 2_000,
}
"""In CI; a hundred thousand together."""

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="renameat2 and inotify are Linux's"),
]


@pytest.fixture
def arena(place: Path) -> Iterator[Arena]:
    made = Arena(place)
    with quietly():
        yield made
    made.close()


def play(
    record: Callable[[str, object], None], arena: Arena, what: str, one: str, other: str, game: Any
) -> None:
    ci = RACES[what]
    with counting(record, TIER, f"races: {what}") as tally:
        tally.cases = pick(max(30, ci // 250), ci, ci * 10)
        with arena.racing(one, other):
            run_inline(game(tally.cases))
        tally.facts = {"outcomes": dict(arena.outcomes), "swaps": arena.swaps}
        # A few races on a busy machine may be over before the racer's turn comes.
        if tally.cases >= 1000:
            assert arena.swaps, "nothing was swapped"
            assert len(arena.outcomes) > 1, "the racer never came in between"


async def read(saver: Saver, turn: int) -> str:
    """Read by one of three ways: what was saved here, or an error of ours."""
    try:
        if turn % 4 == 0:
            await saver.verify(STEP)
        elif turn % 4 == 1:
            return f"listed {len(await saver.checkpoints())}"
        else:
            assert_same(state(1.0), (await saver.restore()).state)
    except CheckpointError as error:
        return type(error).__name__
    return "read"


@pytest.mark.parametrize(
    ("what", "name", "to"),
    [
        ("restore, the checkpoint is swapped", NAME, NAME),
        ("restore, its manifest is swapped", f"{NAME}/manifest.json", f"{NAME}/manifest.json"),
        (
            "restore, a tensor file is swapped",
            f"{NAME}/model-00001-of-00001.safetensors",
            f"{NAME}/model-00001-of-00001.safetensors",
        ),
    ],
)
def test_what_is_read_is_never_what_a_link_leads_to(
    arena: Arena, record_property: Callable[[str, object], None], what: str, name: str, to: str
) -> None:
    evil = str(Path(name).with_name(EVIL))
    arena.link(evil, to)
    turns = iter(range(sys.maxsize))

    async def game(races: int) -> None:
        saver = Saver(arena.run)
        await arena.race(races, lambda: read(saver, next(turns)))
        await saver.aclose()

    play(record_property, arena, what, name, evil, game)


def test_pins_and_leases_are_never_made_where_a_link_leads_to(
    arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    arena.link(EVIL, ".pins")

    async def body(store: LocalStore) -> str:
        try:
            await store.pin(STEP)
            await store.unpin(STEP)
            async with store.lease(STEP):
                await store.pinned()
        except CheckpointError as error:
            return type(error).__name__
        return "pinned"

    async def game(races: int) -> None:
        store = LocalStore(arena.run)
        await arena.race(races, lambda: body(store))
        await store.aclose()

    what = "pin and lease, their directory is swapped"
    play(record_property, arena, what, ".pins", EVIL, game)


def checkpoint(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").touch()
    (path / "model.safetensors").touch()


def tree(path: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "file").touch()


def test_pruning_never_deletes_what_a_link_leads_to(
    arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    def arm() -> None:
        arena.clear(".trash-")
        arena.rearm(OTHER, checkpoint, NAME)

    async def body(store: LocalStore) -> str:
        try:
            return f"removed {await store.remove(3)}"
        except CheckpointError as error:
            return type(error).__name__

    async def game(races: int) -> None:
        store = LocalStore(arena.run)
        await store.open()
        await arena.race(races, lambda: body(store), arm)
        await store.aclose()

    arm()
    play(record_property, arena, "prune, the checkpoint is swapped", OTHER, EVIL, game)


@pytest.mark.parametrize(
    ("what", "name", "to"),
    [
        ("sweep, the trash is swapped", TRASH, NAME),
        ("sweep, a dead attempt is swapped", TEMP, NAME),
        ("sweep, a directory in the trash is swapped", f"{TRASH}/sub", NAME),
    ],
)
def test_sweeping_never_deletes_what_a_link_leads_to(
    arena: Arena, record_property: Callable[[str, object], None], what: str, name: str, to: str
) -> None:
    nested = "/" in name

    def arm() -> None:
        if nested and not (arena.run / TRASH).exists():
            tree(arena.run / "new")
            (arena.run / "new" / EVIL).symlink_to(arena.outside / to)
            (arena.run / "new").rename(arena.run / TRASH)
        elif not nested:
            arena.rearm(name, tree, to)

    async def body() -> str:
        store = LocalStore(arena.run)
        try:
            await store.open()
        except CheckpointError as error:
            return type(error).__name__
        finally:
            await store.aclose()
        left = os.path.lexists(arena.run / (TRASH if nested else name))
        return "something was left" if left else "swept"

    async def game(races: int) -> None:
        await arena.race(races, body, arm)

    arm()
    play(record_property, arena, what, name, str(Path(name).with_name(EVIL)), game)


def test_saving_never_writes_where_a_link_leads_to(
    arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    def arm() -> None:
        arena.clear(".tmp-")
        arena.clear(".trash-")
        arena.clear("step-00000009")
        if not os.path.lexists(arena.run / EVIL):
            arena.link(EVIL, NAME)
        elif not (arena.run / EVIL).is_symlink():
            (arena.run / EVIL).rename(arena.run / ".trash-step-00000009-00")
            arena.link(EVIL, NAME)

    async def body(saver: Saver) -> str:
        try:
            await saver.save(state(9.0), 9)
        except CheckpointError as error:
            return type(error).__name__
        return "saved"

    async def game(races: int) -> None:
        saver = Saver(arena.run, max_to_keep=1000)
        await saver.open()
        await arena.race(races, lambda: body(saver), arm)
        await saver.aclose()

    arm()
    play(record_property, arena, "save, the attempt is swapped", "*", EVIL, game)
