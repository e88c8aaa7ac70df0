"""One damaged byte, or a file cut short, and what reading has to make of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver import Saver
from async_ckpt.storage.manifest import decode_manifest
from async_ckpt.storage.memory import MemoryPlace
from tests.saver.conftest import assert_same

from .checkpoints import NEW, OLD, Made
from .watching import Watch

__all__ = ["Damage", "Disk", "Judge", "Memory", "Place", "judge_all", "quietly"]

MANIFEST, REPORT = "manifest.json", "report.json"
Part = Literal["manifest", "report", "header", "data", "size"]


@dataclass(frozen=True)
class Damage:
    """A byte of a file of the newest checkpoint is another; or, ``value`` None, the file ends there."""

    file: str
    at: int
    value: int | None


class Place(Protocol):
    """Where the checkpoints lie; puts a damage there and takes it back."""

    def damaged(self, damage: Damage) -> None: ...
    def healed(self, damage: Damage) -> None: ...


class Disk:
    """Files are patched where they are, so a file with two names is damaged under both."""

    def __init__(self, made: Made) -> None:
        self._whole = {file.name: file.read_bytes() for file in made.files()}
        self._open = {file.name: os.open(file, os.O_RDWR) for file in made.files()}

    def damaged(self, damage: Damage) -> None:
        fd = self._open[damage.file]
        if damage.value is None:
            os.ftruncate(fd, damage.at)
        else:
            os.pwrite(fd, bytes([damage.value]), damage.at)

    def healed(self, damage: Damage) -> None:
        end = None if damage.value is None else damage.at + 1
        os.pwrite(self._open[damage.file], self._whole[damage.file][damage.at : end], damage.at)

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)


class Memory:
    """The same files before the memory store; what is linked is put in both checkpoints."""

    def __init__(self, made: Made) -> None:
        self.place = MemoryPlace()
        for step in (OLD, NEW):
            files = (made.directory / f"step-{step:08d}").iterdir()
            self.place.steps[step] = {file.name: file.read_bytes() for file in files}
        self._whole = dict(self.place.steps[NEW])
        self._steps = {file.name: (NEW, OLD) if is_linked(file) else (NEW,) for file in made.files()}

    def damaged(self, damage: Damage) -> None:
        whole = self._whole[damage.file]
        data = whole[: damage.at]
        if damage.value is not None:
            data += bytes([damage.value]) + whole[damage.at + 1 :]
        self._put(damage.file, data)

    def healed(self, damage: Damage) -> None:
        self._put(damage.file, self._whole[damage.file])

    def _put(self, file: str, data: bytes) -> None:
        for step in self._steps[file]:
            self.place.steps[step][file] = data


def is_linked(file: Path) -> bool:
    return file.stat().st_nlink > 1


class Judge:
    """Reads a damaged directory by every public way, and knows what each of them has to say."""

    def __init__(self, made: Made, saver: Saver) -> None:
        manifest = decode_manifest((made.newest / MANIFEST).read_bytes())
        self._headers = {file.name: file.header_bytes for file in manifest.files}
        self._linked = {file.name for file in made.files() if is_linked(file)}
        self._made = made
        self._saver = saver

    async def judge(self, damage: Damage) -> None:
        part = self.part(damage)
        await self._restore(damage, part)
        await self._verify(damage, part)
        await self._list(damage, part)

    def part(self, damage: Damage) -> Part:
        if damage.file == MANIFEST:
            return "manifest"
        if damage.file == REPORT:
            return "report"
        if damage.value is None:
            return "size"
        return "header" if damage.at < self._headers[damage.file] else "data"

    async def _restore(self, damage: Damage, part: Part) -> None:
        # Restoring goes by the manifest and reads no headers; other readers of the file would.
        expected: int | None = NEW if part in {"header", "report"} else OLD
        if expected == OLD and damage.file in self._linked:
            expected = None
        try:
            restored = await self._saver.restore()
        except DamagedCheckpointError as error:
            said = str(error)
            if expected is not None or not all(f"step {step}: " in said for step in self._made.states):
                raise
            return
        assert restored.step == expected
        assert_same(self._made.states[restored.step], restored.state)
        assert [item.step for item in restored.skipped] == [NEW] * (expected == OLD)
        for item in restored.skipped:
            self._about(damage, item.reason)

    async def _verify(self, damage: Damage, part: Part) -> None:
        try:
            found = (await self._saver.verify(NEW)).report_error
        except DamagedCheckpointError as error:
            if part == "report":
                raise
            # Its traceback holds this frame: a circle that keeps each manifest until the collector comes.
            found = error.with_traceback(None)
        # A report that is damaged is no reason to call the checkpoint damaged.
        self._about(damage, found)

    async def _list(self, damage: Damage, part: Part) -> None:
        expected = [OLD, NEW]
        if part in {"manifest", "size"}:
            expected = [] if damage.file in self._linked else [OLD]
        assert [found.step for found in await self._saver.checkpoints()] == expected

    def _about(self, damage: Damage, error: BaseException | None) -> None:
        assert isinstance(error, DamagedCheckpointError)
        assert error.step == NEW
        assert str(error.path).endswith(f"/step-{NEW:08d}/{damage.file}")


async def judge_all(
    judge: Judge, place: Place, watch: Watch, damages: Iterator[Damage], count: Callable[[], None]
) -> None:
    """Damage, judge and heal, again and again; a failure names the damage that it takes to see it again."""
    for damage in damages:
        place.damaged(damage)
        watch.begin()
        try:
            await judge.judge(damage)
        except BaseException as error:
            error.add_note(f"to see it again: {damage}")
            raise
        finally:
            place.healed(damage)
        watch.end(damage)
        count()
        # Where nothing hops to a thread the loop never turns, and what it is to call afterwards piles up.
        await asyncio.sleep(0)


@contextmanager
def quietly() -> Iterator[None]:
    """Without a warning per damaged checkpoint."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
