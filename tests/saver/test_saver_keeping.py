"""After the commit: reports, listeners' states, pins, deletion, retention end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.core.retention import BestN, EveryNHours, EveryNSteps, LatestN
from async_ckpt.errors import (
    DamagedCheckpointError,
    FormatVersionError,
    NoCheckpointError,
    ProtocolError,
    UnsupportedLeafError,
)
from async_ckpt.saver import Saver
from async_ckpt.storage.manifest import digest
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.testing import FakeClock

pytestmark = pytest.mark.asyncio

STATE = {"w": np.ones(10)}


async def steps(saver: Saver) -> list[int]:
    return [c.step for c in await saver.checkpoints()]


# -- retention -----------------------------------------------------------------------------------


async def test_the_newest_five_are_kept_by_default(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        for step in range(8):
            await saver.save(STATE, step)
        assert await steps(saver) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("everything", [None, 0])
async def test_everything_is_kept_on_request(memory: MemoryStore, everything: int | None) -> None:
    async with Saver(memory, max_to_keep=everything) as saver:
        for step in range(8):
            await saver.save(STATE, step)
        assert await steps(saver) == list(range(8))


async def test_a_lower_limit_trims_all_excess_at_once(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store(), max_to_keep=None) as saver:
        for step in range(8):
            await saver.save(STATE, step)
    async with Saver(make_store(), max_to_keep=2) as saver:
        await saver.save(STATE, 8)
        assert await steps(saver) == [7, 8]


async def test_policies_combine_and_rank_by_what_was_reported(make_store: Callable[[], Any]) -> None:
    accuracy = [0.1, 0.9, 0.3, float("nan"), 0.8, 0.2, 0.2]
    async with Saver(make_store(), keep=[LatestN(2), BestN(2, "acc")]) as saver:
        for step, value in enumerate(accuracy):
            held = saver._start(saver._flatten(STATE), step, metrics={"acc": 0.0}, expects_report=True)
            held.allow_commit()
            await held
            await saver._add_report(step, metrics={"acc": value})
            await saver.prune()
            held.release()
        assert await steps(saver) == [1, 4, 5, 6]
        assert [c.metrics["acc"] for c in await saver.checkpoints()] == [0.9, 0.8, 0.2, 0.2]


async def test_one_policy_needs_no_list(memory: MemoryStore) -> None:
    async with Saver(memory, keep=LatestN(1) | EveryNSteps(10)) as saver:
        for step in range(0, 36, 3):
            await saver.save(STATE, step)
        assert await steps(saver) == [0, 12, 21, 30, 33]


async def test_hours_are_counted_by_the_clock_that_was_given(make_store: Callable[[], Any]) -> None:
    clock, kept = FakeClock(), list[int]()
    for first in (0, 4):
        # A restart in the middle changes nothing.
        async with Saver(make_store(), max_to_keep=1, keep_checkpoint_every_n_hours=2, clock=clock) as saver:
            for step in range(first, first + 4):
                await saver.save(STATE, step)
                clock.advance(3600)
            kept = await steps(saver)
    assert kept == [0, 2, 4, 6, 7]


async def test_keep_and_hours_together_are_refused(memory: MemoryStore) -> None:
    with pytest.raises(ValueError, match="not both"):
        Saver(memory, keep=[EveryNHours(1)], keep_checkpoint_every_n_hours=1)


async def test_what_is_protected_stays(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store(), max_to_keep=None) as saver:
        for step in range(6):
            await saver.save(STATE, step)
    async with Saver(make_store(), max_to_keep=1) as saver:
        await saver.pin(0)
        await saver.restore(2)
        assert await saver.prune(protect=[4]) == [1, 3]
        assert await steps(saver) == [0, 2, 4, 5]
        await saver.unpin(0)
        await saver.unpin(0)
        assert await saver.prune() == [0, 4]
        assert await saver.prune() == []
        assert await steps(saver) == [2, 5]


async def test_deleting_goes_from_the_oldest_on(memory: MemoryStore) -> None:
    removed: list[int] = []

    class Recording(MemoryStore):
        async def remove(self, step: int) -> bool:
            removed.append(step)
            return step != 1 and await super().remove(step)

    async with Saver(Recording(memory.place), max_to_keep=None) as saver:
        for step in range(4):
            await saver.save(STATE, step)
    async with Saver(Recording(memory.place), max_to_keep=1) as saver:
        await saver.pin(2)
        # One that a reader took in between stays, and is not said to be gone.
        assert await saver.prune() == [0]
    assert removed == [0, 1]


# -- deleting and pinning ------------------------------------------------------------------------


async def test_one_checkpoint_is_deleted(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        for step in range(3):
            await saver.save(STATE, step)
        await saver.delete(1)
        assert await steps(saver) == [0, 2]
        with pytest.raises(NoCheckpointError):
            await saver.delete(1)
        with pytest.raises(NoCheckpointError):
            await saver.pin(1)
        await saver.pin(0)
        with pytest.raises(ProtocolError, match="pinned"):
            await saver.delete(0)
        await saver.restore(2)
        with pytest.raises(ProtocolError, match="restored from"):
            await saver.delete(2)
        assert await steps(saver) == [0, 2]


async def test_a_pin_holds_against_other_savers(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store(), max_to_keep=1) as saver, Saver(make_store()) as reader:
        await saver.save(STATE, 1)
        await reader.pin(1)
        await saver.save(STATE, 2)
        assert await steps(reader) == [1, 2]


async def test_what_lies_above_is_put_aside(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        for step in range(5):
            await saver.save(STATE, step)
        assert await saver._abandon_above(2) == [3, 4]
        assert await steps(saver) == [0, 1, 2]


# -- reports -------------------------------------------------------------------------------------


async def reported(saver: Saver, step: int = 1) -> None:
    held = saver._start(
        saver._flatten(STATE),
        step,
        metrics={"loss": 1.0, "acc": 0.0},
        listeners={"Early-0": {"best": 0.5, "seen": np.arange(3)}},
        expects_report=True,
    )
    held.allow_commit()
    await held
    held.release()


async def test_without_a_report_the_manifest_speaks(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        await reported(saver)
        restored = await saver.restore()
    assert restored.expects_report
    assert restored.report is None
    assert restored.report_error is None
    assert restored.votes == ()
    assert restored.listeners["Early-0"]["best"] == 0.5
    assert restored.listeners["Early-0"]["seen"].tolist() == [0, 1, 2]
    assert restored.checkpoint.metrics == {"loss": 1.0, "acc": 0.0}


async def test_a_report_overlays_metrics_and_replaces_listeners_states(make_store: Callable[[], Any]) -> None:
    votes = [{"listener": "Early-0", "step": 1, "reason": None}]
    async with Saver(make_store()) as saver:
        await reported(saver)
        await saver._add_report(
            1, votes=votes, metrics={"acc": float("inf")}, listeners={"Early-0": {"best": 0.7}}
        )
        restored = await saver.restore()
        (listed,) = await saver.checkpoints()
        await saver.verify(1)
    assert restored.report is not None
    assert restored.votes == tuple(votes)
    assert restored.listeners == {"Early-0": {"best": 0.7}}
    assert restored.checkpoint.metrics == listed.metrics == {"loss": 1.0, "acc": float("inf")}


async def test_saves_without_listeners_expect_no_report(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        await saver.save(STATE, 1)
        assert not (await saver.restore()).expects_report


async def test_a_report_of_nothing_is_refused(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(NoCheckpointError):
            await saver._add_report(1)
        await saver.save(STATE, 1)
        with pytest.raises(UnsupportedLeafError, match="listeners/x"):
            await saver._add_report(1, listeners={"x": print})
        assert (await saver.restore()).report is None


def sealed(body: bytes) -> bytes:
    return b'{"xxh3_128":"' + digest(body).encode() + b'","body":' + body + b"}\n"


BAD_REPORTS = {
    "empty": (b"", DamagedCheckpointError),
    "of another step": (
        sealed(b'{"version":1,"step":2,"votes":[],"metrics":["dict"],"listeners":{}}'),
        DamagedCheckpointError,
    ),
    "newer": (sealed(b'{"version":7}'), FormatVersionError),
    "with metrics of text": (
        sealed(b'{"version":1,"step":1,"votes":[],"metrics":["dict","acc","high"],"listeners":{}}'),
        DamagedCheckpointError,
    ),
    "with a state that is nothing": (
        sealed(b'{"version":1,"step":1,"votes":[],"metrics":["dict"],"listeners":{"a":["what"]}}'),
        DamagedCheckpointError,
    ),
}


@pytest.mark.parametrize(("data", "kind"), BAD_REPORTS.values(), ids=BAD_REPORTS)
async def test_a_bad_report_counts_as_none_and_the_checkpoint_stays_valid(
    tmp_path: Path, data: bytes, kind: type[Exception]
) -> None:
    async with Saver(tmp_path) as saver:
        await reported(saver)
        await saver._add_report(1, metrics={"acc": 0.9}, listeners={"Early-0": {"best": 0.9}})
        (tmp_path / "step-00000001" / "report.json").write_bytes(data)
        restored = await saver.restore()
        assert restored.report is None
        assert isinstance(restored.report_error, kind)
        assert restored.expects_report
        assert restored.listeners["Early-0"]["best"] == 0.5
        assert (await saver.checkpoints())[0].metrics == {"loss": 1.0, "acc": 0.0}
        verified = await saver.verify(1)
        assert isinstance(verified.report_error, kind)


async def test_a_report_that_is_no_file_counts_as_none(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await reported(saver)
        (tmp_path / "step-00000001" / "report.json").mkdir()
        restored = await saver.restore()
    assert restored.report is None
    assert isinstance(restored.report_error, DamagedCheckpointError)


async def test_a_flipped_bit_of_a_report_is_found(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await reported(saver)
        await saver._add_report(1, metrics={"acc": 0.9})
        file = tmp_path / "step-00000001" / "report.json"
        good = file.read_bytes()
        for at in range(0, len(good), 5):
            file.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            assert (await saver.verify(1)).report_error is not None
        file.write_bytes(good)
        assert (await saver.verify(1)).report_error is None
