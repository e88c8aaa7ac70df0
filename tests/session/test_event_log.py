"""What a session writes to ``events.jsonl``, and what becomes of a log that cannot be written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver
from async_ckpt.storage.journal import read_events
from async_ckpt.storage.local import LocalStore
from async_ckpt.testing import RecordingListener
from tests.session.lives import new_state, train

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


def kinds(directory: Path) -> list[str]:
    return [entry["event"] for entry in read_events(directory) if entry["event"] != "ListenerCalled"]


def hook_on(directory: Any, state: Any, **more: Any) -> CheckpointSaverHook:
    return CheckpointSaverHook(directory, state, save_steps=1, initial_save="never", **more)


async def test_two_lives_are_logged_whole_and_in_order(tmp_path: Path) -> None:
    for _ in range(2):
        state = new_state()
        hook = hook_on(tmp_path, state, blocking=True, max_to_keep=1)
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            await train(session, state, 1)
    save = ["SaveRequested", "SaveStaged", "SaveWritten", "SaveCommitted", "SaveSettled"]
    assert kinds(tmp_path) == [
        "SessionBegan", *save, "SessionEnded",
        "CheckpointRestored", "SessionBegan", *save, "SessionEnded",
    ]  # fmt: skip
    entries = list(read_events(tmp_path))
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert entries[-1]["step"] == 2
    assert entries[-1]["error"] is None


async def test_each_call_of_a_listener_is_logged_with_its_error(tmp_path: Path) -> None:
    state = new_state()

    class Fails(RecordingListener):
        async def after_save(self, session: Any, global_step_value: int) -> None:
            raise LookupError("mine")

    hook = hook_on(tmp_path, state, listeners=[Fails("l")], on_listener_error="log")
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await train(session, state, 1)
    calls = [entry for entry in read_events(tmp_path) if entry["event"] == "ListenerCalled"]
    assert [(c["listener"], c["phase"], c["step"], c["error"]) for c in calls] == [
        ("l", "begin", None, None),
        ("l", "before_save", 1, None),
        ("l", "after_save", 1, "LookupError('mine')"),
        ("l", "end", 1, None),
    ]


async def test_each_directory_logs_its_own_saves_and_what_concerns_the_session(tmp_path: Path) -> None:
    one, other = new_state(), new_state()
    hooks = [hook_on(tmp_path / "one", one), hook_on(tmp_path / "other", other)]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        await train(session, one, 1)
    for name in ("one", "other"):
        entries = list(read_events(tmp_path / name))
        assert {entry["directory"] for entry in entries if "directory" in entry} == {str(tmp_path / name)}
        assert [kind for kind in kinds(tmp_path / name) if kind.startswith("Session")] == [
            "SessionBegan", "SessionEnded",
        ]  # fmt: skip


async def test_the_error_that_leaves_is_in_the_log(tmp_path: Path) -> None:
    state = new_state()
    with pytest.raises(LookupError):
        async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)]) as session:
            await train(session, state, 1)
            raise LookupError("mine")
    assert list(read_events(tmp_path))[-1]["error"] == "LookupError('mine')"


async def test_a_session_that_saves_nothing_leaves_no_log(tmp_path: Path) -> None:
    state = new_state()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)], final_save="never"):
        pass
    assert not (tmp_path / "events.jsonl").exists()


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    state = new_state()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)], event_log=False) as session:
        await train(session, state, 1)
    assert not (tmp_path / "events.jsonl").exists()


async def test_the_log_is_whole_before_the_lock_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_close: list[list[str]] = []
    real = LocalStore.aclose

    async def close(self: LocalStore) -> None:
        at_close.append(kinds(tmp_path))
        await real(self)

    monkeypatch.setattr(LocalStore, "aclose", close)
    state = new_state()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)]) as session:
        await train(session, state, 1)
    assert at_close[0][-1] == "SessionEnded"


async def test_a_log_that_cannot_be_written_is_given_up_and_every_save_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "events.jsonl").mkdir()
    state = new_state()
    with caplog.at_level(logging.WARNING, "async_ckpt"):
        async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)]) as session:
            await train(session, state, 3)
    warned = [record for record in caplog.records if "events are logged" in record.message]
    assert len(warned) == 1
    assert str(tmp_path) in warned[0].message
    async with Saver(tmp_path) as saver:
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == [1, 2, 3]


async def test_a_worker_that_only_reads_logs_nothing(tmp_path: Path) -> None:
    state = new_state()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)]) as session:
        await train(session, state, 1)
    before = (tmp_path / "events.jsonl").read_bytes()
    again = hook_on(tmp_path, new_state())
    async with MonitoredTrainingSession(chief_only_hooks=[again], is_chief=False) as session:
        await session.advance()
    assert (tmp_path / "events.jsonl").read_bytes() == before
