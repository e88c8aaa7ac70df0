"""S11 to S14: parts belong together, changes under way are noticed, modes are kept, nothing surprises."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from async_ckpt import CheckpointError, DamagedCheckpointError, NoCheckpointError, Saver
from tests.reliability.hostile_bytes.damaging import quietly
from tests.reliability.hostile_bytes.watching import read_watched
from tests.reliability.inline import run_inline
from tests.reliability.tier import pick
from tests.saver.conftest import assert_same
from tests.saver.test_saver_damage import FILES, MODEL, path, state, three


@pytest.mark.parametrize("name", FILES)
def test_s11_parts_of_two_checkpoints_are_never_one(place: Path, name: str) -> None:
    run = place / "run"
    run_inline(three(run))
    whole = {step: path(run, step, name).read_bytes() for step in (1, 2, 3)}

    async def every_pair() -> None:
        async with Saver(run) as saver:
            for into, source in itertools.permutations((1, 2, 3), 2):
                path(run, into, name).write_bytes(whole[source])
                for reading in (saver.restore(into), saver.verify(into)):
                    with pytest.raises(DamagedCheckpointError, match=f"step-{into:08d}"):
                        await reading
                path(run, into, name).write_bytes(whole[into])
                assert (await saver.restore(into)).step == into

    run_inline(every_pair())


def test_s11_a_checkpoint_under_another_step_s_name_is_damage(place: Path) -> None:
    run = place / "run"
    run_inline(three(run))
    path(run, 3, "x").parent.rename(run / "step-00000009")

    async def read() -> None:
        async with Saver(run) as saver:
            with pytest.raises(DamagedCheckpointError, match="belongs to step 3"):
                await saver.restore(9)
            assert (await saver.restore()).step == 2
            assert [found.step for found in await saver.checkpoints()] == [1, 2]

    with quietly():
        run_inline(read())


class Fidget:
    """Cuts a file short, or changes its bytes, and puts it right again, as fast as it can."""

    def __init__(self, file: Path, *, cuts: bool) -> None:
        self._file = file
        self._whole = file.read_bytes()
        self._cuts = cuts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.times = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        fd = os.open(self._file, os.O_RDWR)
        try:
            while not self._ended.is_set():
                at = len(self._whole) - 1 - self.times * 37 % (len(self._whole) // 2)
                if self._cuts:
                    os.ftruncate(fd, at)
                else:
                    os.pwrite(fd, bytes([self._whole[at] ^ 0xFF]), at)
                os.pwrite(fd, self._whole[at:] if self._cuts else self._whole[at : at + 1], at)
                self.times += 1
        finally:
            os.close(fd)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [MODEL, "manifest.json"])
@pytest.mark.parametrize("cuts", [True, False], ids=["cut", "changed"])
def test_s12_a_file_that_changes_while_it_is_read_is_right_or_damaged(
    place: Path, name: str, *, cuts: bool
) -> None:
    run = place / "run"
    run_inline(three(run))
    outcomes: dict[str, int] = {"right": 0, "damaged": 0}

    async def read() -> None:
        async with Saver(run) as saver:
            for _ in range(pick(40, 2000, 20_000)):
                try:
                    restored = await saver.restore(3)
                except DamagedCheckpointError:
                    outcomes["damaged"] += 1
                else:
                    assert_same(state(3), restored.state)
                    outcomes["right"] += 1

    with Fidget(path(run, 3, name), cuts=cuts) as fidget:
        run_inline(read())
    assert fidget.times
    assert sum(outcomes.values()) == pick(40, 2000, 20_000)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_s13_modes_are_those_of_the_umask_for_everything_that_is_made(place: Path, umask: int) -> None:
    run = place / "run"
    before = os.umask(umask)

    async def live() -> None:
        async with Saver(run, max_to_keep=2, reuse_unchanged=True) as saver:
            for step in (1, 2, 3, 3):
                await saver.save(state(step), step)
                await saver._add_report(step, [], {"loss": 1.0})
            await saver.pin(2)
            await saver.restore()

    try:
        run_inline(live())
    finally:
        os.umask(before)
    found = {file: file.lstat().st_mode for file in (run, *run.rglob("*"))}
    assert len(found) > 10
    for file, mode in found.items():
        assert stat.S_IMODE(mode) == (0o777 if stat.S_ISDIR(mode) else 0o666) & ~umask, file


@pytest.mark.parametrize("mode", [0o700, 0o2770, 0o1777], ids=oct)
def test_s13_the_mode_of_a_directory_that_exists_is_kept(place: Path, mode: int) -> None:
    run = place / "run"
    run.mkdir()
    run.chmod(mode)
    run_inline(three(run))
    assert stat.S_IMODE(run.stat().st_mode) == mode


def deep(file: Path) -> None:
    for _ in range(60):
        file.mkdir()
        file /= "d"


STRANGE: dict[str, Callable[[Path], object]] = {
    "nothing in it": lambda step: None,
    "an empty manifest": lambda step: (step / "manifest.json").touch(),
    "a manifest of zeros": lambda step: (step / "manifest.json").write_bytes(bytes(4096)),
    "a manifest that is a directory": lambda step: (step / "manifest.json").mkdir(),
    "a manifest that is a pipe": lambda step: os.mkfifo(step / "manifest.json"),
    "a manifest in another encoding": lambda step: (step / "manifest.json").write_text("{}", "utf-16"),
    "only a report": lambda step: (step / "report.json").write_text("{}"),
    "a thousand files": lambda step: [(step / f"f{number}").write_bytes(b"") for number in range(1000)],
    "names that are no text": lambda step: Path(os.fsdecode(bytes(step) + b"/\xff\xfe")).touch(),
    "a deep directory": lambda step: deep(step / "d"),
    "no rights": lambda step: step.chmod(0),
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_s14_whatever_lies_there_is_a_value_or_an_error_of_ours(
    place: Path, make: Callable[[Path], object]
) -> None:
    run = place / "run"
    run_inline(three(run))
    step = run / "step-00000009"
    step.mkdir()
    make(step)

    async def read() -> None:
        async with Saver(run) as saver:
            try:
                assert [found.step for found in await saver.checkpoints()] == [1, 2, 3]
                restored = await saver.restore()
                assert restored.step == 3
                assert [item.step for item in restored.skipped] == [9]
            except CheckpointError:
                assert os.geteuid() != 0, "only a lack of permission is more than damage"
            for reading in (saver.restore(9), saver.verify(9), saver.restore(9, mmap=True)):
                with pytest.raises(CheckpointError, match="step-00000009"):
                    await reading

    with quietly():
        read_watched(run, read)
    step.chmod(0o700)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda file: file.symlink_to(file.name)])
def test_s14_a_place_that_is_no_directory_is_an_error_of_ours(place: Path, make: Any) -> None:
    run = place / "run"
    make(run)

    async def read() -> None:
        async with Saver(run) as saver:
            for reading in (saver.checkpoints(), saver.restore(), saver.verify(1)):
                with pytest.raises(CheckpointError, match=str(run)):
                    await reading

    run_inline(read())


def test_s14_ten_thousand_damaged_checkpoints_are_passed_over_in_time(place: Path) -> None:
    run = place / "run"
    run_inline(three(run))
    for step in range(10, pick(300, 10_000, 10_000)):
        (run / f"step-{step:08d}").mkdir()

    async def read() -> int:
        async with Saver(run) as saver:
            with pytest.raises(NoCheckpointError):
                await saver.restore(10**9)
            return (await saver.restore()).step

    with quietly():
        assert run_inline(read()) == 3


def test_arrays_are_new_ones_and_not_views_of_a_buffer_that_others_share(place: Path) -> None:
    """What is restored can be written to, and changes nothing that is restored after it."""
    run = place / "run"
    run_inline(three(run))

    async def read() -> None:
        async with Saver(run) as saver:
            first = (await saver.restore()).state
            for group in first.values():
                for array in group.values():
                    np.asarray(array)[...] = 0
            assert_same(state(3), (await saver.restore()).state)

    run_inline(read())
