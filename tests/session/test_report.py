"""``report.json``: what ``after_save`` left behind, and what happens when a crash took it away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    Checkpoint,
    CheckpointSaverHook,
    CheckpointSaverListener,
    MonitoredTrainingSession,
    ProtocolError,
    Saver,
    Stop,
    Vote,
    all_of,
)
from async_ckpt.testing import Gate, RecordingListener
from tests.session.lives import flip_byte, listed, live, new_state, train

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


def report_of(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}" / "report.json"


class Judge(CheckpointSaverListener):
    """Looks at the saved state, reports, and votes."""

    name = "judge"

    def __init__(self, vote_at: int | None = None, reason: str = "good enough") -> None:
        self.vote_at = vote_at
        self.reason = reason
        self.saw: list[tuple[int, float]] = []

    async def after_save(self, session: Any, global_step_value: int) -> Any:
        saved = await session.saved_state()
        self.saw.append((global_step_value, float(saved["w"][0])))
        session.report({"accuracy": global_step_value / 10})
        return Stop(self.reason) if global_step_value == self.vote_at else None


async def test_a_checkpoint_with_listeners_has_a_report_and_one_without_has_none(tmp_path: Path) -> None:
    await live(tmp_path / "with", 1, listeners=[RecordingListener("l")])
    await live(tmp_path / "without", 1)
    assert report_of(tmp_path / "with", 1).is_file()
    assert not report_of(tmp_path / "without", 1).exists()


async def test_reported_metrics_are_the_checkpoints_beside_those_of_the_save(tmp_path: Path) -> None:
    state = new_state()
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, listeners=[Judge()], metadata={"git": "abc"})
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        session.metrics["loss"] = 0.5
        session.metrics["accuracy"] = -1.0
        await train(session, state, 1)
        session.metrics["loss"] = 0.25
        checkpoint = await session.save()
        assert isinstance(checkpoint, Checkpoint)
        assert dict(checkpoint.metrics) == {"loss": 0.5, "accuracy": 0.1}
    async with Saver(tmp_path) as saver:
        first, last = await saver.checkpoints()
    assert dict(first.metrics) == {"accuracy": 0.0}, "nothing had been set at the entry"
    assert dict(last.metrics) == {"loss": 0.5, "accuracy": 0.1}
    assert dict(last.metadata) == {"git": "abc"}


async def test_the_manifest_holds_the_metrics_as_they_were_when_the_save_was_taken(tmp_path: Path) -> None:
    state = new_state()

    class Writes(CheckpointSaverListener):
        async def before_save(self, session: Any, global_step_value: int) -> None:
            session.metrics["from_before_save"] = float(global_step_value)

        async def after_save(self, session: Any, global_step_value: int) -> None:
            session.metrics["too_late"] = float(global_step_value)

    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, initial_save="never", listeners=[Writes()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await train(session, state, 1)
    async with Saver(tmp_path) as saver:
        (checkpoint,) = await saver.checkpoints()
    assert dict(checkpoint.metrics) == {"from_before_save": 1.0}


@pytest.mark.parametrize("bad", [{"a": "0.5"}, {"a": None}, {"a": [1]}, {1: 2.0}, {"a": b"1"}])
async def test_report_takes_numbers_under_texts_only_and_all_or_nothing(tmp_path: Path, bad: Any) -> None:
    errors: list[BaseException] = []

    class Reports(CheckpointSaverListener):
        async def after_save(self, session: Any, global_step_value: int) -> None:
            try:
                session.report({"fine": np.float32(0.5), **bad})
            except (TypeError, ValueError) as error:
                errors.append(error)

    await live(tmp_path, 1, initial_save="never", listeners=[Reports()])
    assert [type(error) for error in errors] == [TypeError]
    async with Saver(tmp_path) as saver:
        assert dict((await saver.checkpoints())[0].metrics) == {}


async def test_report_and_saved_state_mean_nothing_outside_after_save(tmp_path: Path) -> None:
    refused: list[str] = []

    class Tries(CheckpointSaverListener):
        async def before_save(self, session: Any, global_step_value: int) -> None:
            for call in (lambda: session.report({"a": 1.0}), session.saved_state):
                with pytest.raises(ProtocolError, match="only inside after_save"):
                    outcome = call()
                    if outcome is not None:
                        await outcome
                refused.append("before_save")

    hook = CheckpointSaverHook(tmp_path, new_state(), save_steps=1, listeners=[Tries()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        with pytest.raises(ProtocolError):
            session.report({"a": 1.0})
        with pytest.raises(ProtocolError):
            await session.saved_state()
    assert refused == ["before_save"] * 2


async def test_votes_are_in_the_report_with_step_and_reason(tmp_path: Path) -> None:
    await live_until(tmp_path, Judge(vote_at=2))
    async with Saver(tmp_path) as saver:
        restored = await saver.restore(2)
    assert restored.votes == ({"listener": "judge", "step": 2, "reason": "good enough"},)


async def live_until(directory: Path, *listeners: Any, **hook: Any) -> MonitoredTrainingSession:
    state = new_state()
    saver_hook = CheckpointSaverHook(
        directory, state, save_steps=1, listeners=listeners, blocking=True, **hook
    )
    async with MonitoredTrainingSession(hooks=[saver_hook]) as session:
        while not session.should_stop() and session.global_step < 6:
            await train(session, state, 1)
    return session


async def test_votes_of_an_earlier_life_are_shown_and_do_not_stop(tmp_path: Path) -> None:
    first = await live_until(tmp_path, Judge(vote_at=2))
    assert first.global_step == 2
    state = new_state()
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, listeners=[Judge()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        assert session.votes == (Vote("judge", 2, "good enough", earlier=True),)
        assert not session.should_stop()
        await train(session, state, 1)
        assert not session.should_stop()


async def test_votes_of_earlier_lives_are_carried_on_in_later_reports(tmp_path: Path) -> None:
    await live_until(tmp_path, Judge(vote_at=2))
    await live(tmp_path, 2, listeners=[Judge()])
    third = new_state()
    hook = CheckpointSaverHook(tmp_path, third, save_steps=1, listeners=[Judge()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        assert [(vote.step, vote.earlier) for vote in session.votes] == [(2, True)]


# -- a report that a crash took away ----------------------------------------------------------------


async def test_a_missing_report_has_after_save_called_again_before_the_first_step(tmp_path: Path) -> None:
    await live(tmp_path, 3, listeners=[Judge()])
    report_of(tmp_path, 3).unlink()
    judge, state = Judge(), new_state()
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, listeners=[judge])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        assert judge.saw == [(3, 3.0)], "saved_state() reads what the checkpoint holds, from disk"
        await session.drain()
        assert report_of(tmp_path, 3).is_file()
    async with Saver(tmp_path) as saver:
        assert dict((await saver.checkpoints())[-1].metrics) == {"accuracy": 0.3}


async def test_a_damaged_report_counts_as_a_missing_one(tmp_path: Path) -> None:
    await live(tmp_path, 2, listeners=[Judge()])
    flip_byte(report_of(tmp_path, 2), 60)
    judge = Judge()
    await live(tmp_path, 0, listeners=[judge])
    assert judge.saw == [(2, 2.0)]
    json.loads(report_of(tmp_path, 2).read_bytes())


async def test_a_report_that_is_there_has_nobody_called(tmp_path: Path) -> None:
    await live(tmp_path, 2, listeners=[Judge()])
    judge = Judge()
    await live(tmp_path, 0, listeners=[judge])
    assert judge.saw == []


async def test_votes_of_a_repeated_after_save_count_and_stop_before_the_first_step(tmp_path: Path) -> None:
    await live(tmp_path, 3, listeners=[Judge()])
    report_of(tmp_path, 3).unlink()
    session = await live_until(tmp_path, Judge(vote_at=3))
    assert session.global_step == 3
    assert session.votes == (Vote("judge", 3, "good enough"),)
    assert session.stop_reason is not None
    assert "judge" in session.stop_reason


async def test_a_repeated_after_save_comes_after_the_states_were_restored(tmp_path: Path) -> None:
    class Stateful(Judge):
        best = 0.0

        async def after_save(self, session: Any, global_step_value: int) -> Any:
            self.saw.append((global_step_value, self.best))
            self.best = float(global_step_value)

        def state_dict(self) -> dict[str, Any]:
            return {"best": self.best}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["best"]

    await live(tmp_path, 3, listeners=[Stateful()])
    report_of(tmp_path, 3).unlink()
    again = Stateful()
    await live(tmp_path, 0, listeners=[again])
    assert again.saw == [(3, 2.0)], "the manifest has the state from before the save"
    async with Saver(tmp_path) as saver:
        assert (await saver.restore(3)).listeners["judge"] == {"best": 3.0}


async def test_an_after_save_cut_off_by_the_grace_period_is_owed_to_the_next_life(tmp_path: Path) -> None:
    gate, state = Gate(), new_state()
    stuck, behind = RecordingListener("stuck", gates={"after_save": gate}), RecordingListener("behind")
    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, initial_save="never", listeners=[stuck, behind])
    with pytest.raises(Exception, match="grace period"):
        async with MonitoredTrainingSession(hooks=[hook], grace_secs=0.05) as session:
            await train(session, state, 1)
            await gate.reached()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await task  # the saver is closed behind the session then, and the directory unlocked
    assert ("behind", "after_save", 1) not in behind.log
    assert await listed(tmp_path) == [1]
    again = [RecordingListener("stuck"), RecordingListener("behind")]
    await live(tmp_path, 0, listeners=again)
    assert [("after_save", 1) in [entry[1:] for entry in one.log] for one in again] == [True, True]


async def test_the_tally_of_all_of_counts_only_votes_of_this_life(tmp_path: Path) -> None:
    class Second(Judge):
        name = "second"

    await live_until(tmp_path, Judge(vote_at=1), Second(vote_at=2), votes=all_of)
    later = await live_until(tmp_path, Judge(), Second(vote_at=3), votes=all_of)
    assert later.global_step == 6
    assert later.stop_reason is None
