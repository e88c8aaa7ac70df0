"""A checkpoint that is refused half-way does not stay in memory, neither beside the older one nor in errors.

Found by the tier ``hostile bytes``: each of 250 refused restores left its buffers in a circle of frames
and exceptions. With ``skipped`` kept, a run that had passed over a damaged checkpoint held two states.
"""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from async_ckpt import DamagedCheckpointError, Saver
from async_ckpt.saver.records import Skipped
from async_ckpt.storage.ranges import Handout
from async_ckpt.system.frames import let_frames_go
from async_ckpt.system.threads import capture

MIB = 1 << 20
STATE = 24 * MIB
ROUNDS = 5


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


async def with_a_damaged_one(directory: Path) -> None:
    state = {"a": {"w": np.ones(STATE // 8)}, "z": {"v": np.ones(5)}}
    async with Saver(directory) as saver:
        await saver.save(state, 1)
        await saver.save(state, 2)
    file = directory / "step-00000002" / "z-00001-of-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [2, None])
async def test_a_refused_checkpoint_does_not_stay_in_memory(
    tmp_path: Path, step: int | None, without_collector: None
) -> None:
    await with_a_damaged_one(tmp_path)
    kept: list[Any] = []
    async with Saver(tmp_path) as saver:

        async def once() -> None:
            # None: the older one is taken, and what is said of the newer one kept.
            with contextlib.suppress(DamagedCheckpointError):
                kept.append((await saver.restore(step)).skipped)

        await once()
        before = resident()
        for _ in range(ROUNDS):
            await once()
        assert resident() - before < 2 * STATE, "each of them took as much as a state"
    assert len(kept) == (0 if step else ROUNDS + 1)


def test_the_reason_of_a_skipped_one_has_no_frames_and_keeps_its_causes() -> None:
    reason = DamagedCheckpointError("damaged", step=1, path="x")
    try:
        try:
            raise ExceptionGroup("several", [OSError("one")])
        except ExceptionGroup as error:
            raise reason from error
    except DamagedCheckpointError as error:
        kept = Skipped(1, error)
    assert kept.reason.__traceback__ is None
    group = kept.reason.__cause__
    assert isinstance(group, ExceptionGroup)
    assert group.__traceback__ is None
    assert group.exceptions[0].__traceback__ is None


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    let_frames_go(one)
    assert one.__cause__ is other


class BoomError(Exception):
    """An exception that can be looked after."""

    made: ClassVar[list[weakref.ref[BoomError]]] = []

    def __init__(self) -> None:
        self.made.append(weakref.ref(self))


def fail(*_: object) -> None:
    raise BoomError


def fail_in_a_range() -> None:
    nothing: Any = None
    handout = Handout([nothing])
    handout.run(fail)
    handout.check()


@pytest.mark.parametrize("raising", [fail_in_a_range, lambda: capture(fail).unwrap()])
def test_an_error_that_was_handed_over_is_in_no_circle(
    raising: Callable[[], None], without_collector: None
) -> None:
    with contextlib.suppress(BoomError):
        raising()
    assert BoomError.made.pop()() is None
