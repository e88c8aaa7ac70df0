"""What is made ready for the first saves while the first steps run, and what is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, ProtocolError, Saver, SessionRunHook
from async_ckpt.state.tree import Flat
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Weights, hang_guard, others_ended, saved_values
from tests.session.lives import Log

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


class Preparing(Saver):
    """A real saver that says what it is asked to prepare for, and waits or fails as a test says."""

    def __init__(
        self,
        directory: Path,
        *,
        gate: Gate | None = None,
        error: Exception | None = None,
        stubborn: bool = False,
    ) -> None:
        super().__init__(directory)
        self.paths: list[tuple[str, ...]] = []
        self.looked_in: list[int] = []
        self.ended: list[str] = []
        self._at, self._error, self._stubborn = gate, error, stubborn

    async def _prepare_flat(self, flat: Flat) -> None:
        self.paths.append(flat.outline.paths)
        try:
            if self._at is not None:
                await self._at()
            if self._error is not None:
                raise self._error
            await super()._prepare_flat(flat)
            self.ended.append("done")
        except asyncio.CancelledError:
            while self._stubborn:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            for _ in range(100):  # a thread that has to come to its end first
                await asyncio.sleep(0)
            self.ended.append("cancelled")
            raise

    def _flatten(self, state: Any) -> Flat:
        self.looked_in.append(threading.get_ident())
        return super()._flatten(state)


def hook_on(saver: Saver, state: Any, **options: Any) -> CheckpointSaverHook:
    options = {"save_steps": 1000, "initial_save": "never", **options}
    return CheckpointSaverHook(saver, state.tree if isinstance(state, Weights) else state, **options)


def session_of(*hooks: SessionRunHook, **options: Any) -> MonitoredTrainingSession:
    return MonitoredTrainingSession(hooks=hooks, **{"final_save": "never", **options})


# -- what is prepared for --------------------------------------------------------------------


async def test_a_hook_that_has_not_saved_yet_is_made_ready_for_once(tmp_path: Path) -> None:
    async with hang_guard(), Preparing(tmp_path) as saver, session_of(hook_on(saver, Weights())) as session:
        while not saver.ended:
            await asyncio.sleep(0)
        for _ in range(3):
            await session.advance()
        assert saver.ended == ["done"]
        assert saver._engine.memory_bytes > 0
    assert saver.paths == [("model/w",)]


async def test_a_resumed_run_is_made_ready_for_too(tmp_path: Path) -> None:
    weights = Weights()
    async with Saver(tmp_path) as first:
        await first.save(weights.tree, 3)
    async with (
        hang_guard(),
        Preparing(tmp_path) as saver,
        session_of(hook_on(saver, weights, initial_save="fresh")) as session,
    ):
        assert session.global_step == 3
    assert len(saver.paths) == 1


async def test_an_owed_report_is_no_save_yet(tmp_path: Path) -> None:
    weights = Weights()
    async with Saver(tmp_path) as first:
        pending = first._start(first._flatten(weights.tree), 3, expects_report=True)
        pending.allow_commit()
        await pending
        pending.release()
    listener = RecordingListener("l")
    async with (
        hang_guard(),
        Preparing(tmp_path) as saver,
        session_of(hook_on(saver, weights, listeners=[listener])),
    ):
        assert ("l", "after_save", 3) in listener.log
    assert len(saver.paths) == 1


async def test_each_saver_hook_is_made_ready_for(tmp_path: Path) -> None:
    async with (
        hang_guard(),
        Preparing(tmp_path / "a") as one,
        Preparing(tmp_path / "b") as other,
        session_of(hook_on(one, Weights()), hook_on(other, {"x": np.zeros(3)})),
    ):
        pass
    assert (one.paths, other.paths) == ([("model/w",)], [("x",)])


async def test_after_the_initial_save_there_is_nothing_to_prepare(tmp_path: Path) -> None:
    async with (
        hang_guard(),
        Preparing(tmp_path) as saver,
        session_of(hook_on(saver, Weights(), initial_save="fresh")) as session,
    ):
        await session.advance()
    assert saver.paths == []


async def test_who_only_reads_prepares_nothing(tmp_path: Path) -> None:
    async with hang_guard(), Preparing(tmp_path) as saver:
        hook = hook_on(saver, Weights())
        async with MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=False) as session:
            await session.advance()
    assert (saver.paths, saver.looked_in) == ([], [])


class Stateful:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.w = np.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        self.asked += 1
        return {"w": self.w}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.w = state["w"]


@dataclass
class Held:
    inner: list[Any] = field(default_factory=list)


@pytest.mark.parametrize(
    "around",
    [
        lambda model: model,
        lambda model: {"model": model},
        lambda model: {"x": np.zeros(2), "deep": [{"model": model}]},
        lambda model: {"x": np.zeros(2), "held": Held([model])},
    ],
    ids=["itself", "in a mapping", "deep", "in a dataclass"],
)
async def test_an_object_with_a_state_dict_is_asked_by_saves_only(tmp_path: Path, around: Any) -> None:
    model = Stateful()
    async with (
        hang_guard(),
        Preparing(tmp_path) as saver,
        session_of(hook_on(saver, around(model))) as session,
    ):
        assert model.asked == 0
        await session.advance()
        await session.save()
        assert model.asked == 1
    assert saver.paths == []


async def test_a_callable_is_called_by_saves_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = []
    caplog.set_level(logging.DEBUG, "async_ckpt")

    def state() -> dict[str, Any]:
        calls.append(1)
        return {"w": np.zeros(3)}

    async with hang_guard(), Preparing(tmp_path) as saver, session_of(hook_on(saver, state)) as session:
        assert calls == []
        await session.advance()
        await session.save()
        assert calls == [1]
    assert saver.paths == []
    assert not [record for record in caplog.records if "made ready" in record.getMessage()]


async def test_the_state_is_looked_at_before_the_entry_ends_and_off_the_loop(tmp_path: Path) -> None:
    async with hang_guard(), Preparing(tmp_path) as saver, session_of(hook_on(saver, Weights())) as session:
        assert len(saver.looked_in) == 1
        assert threading.get_ident() not in saver.looked_in
        for _ in range(3):
            await session.run(lambda: None)
        assert len(saver.looked_in) == 1


# -- never in the way ------------------------------------------------------------------------


async def test_steps_saves_and_callbacks_do_not_wait_for_it(tmp_path: Path) -> None:
    gate, weights, listener = Gate(), Weights(), RecordingListener("l")
    async with (
        hang_guard(),
        Preparing(tmp_path, gate=gate) as saver,
        session_of(hook_on(saver, weights, save_steps=1, listeners=[listener])) as session,
    ):
        await gate.reached()
        for _ in range(2):
            await session.run(weights.train)
        await session.drain()
        assert saver.ended == []
        assert [entry for entry in listener.log if entry[1] == "after_save"] == [
            ("l", "after_save", 1),
            ("l", "after_save", 2),
        ]
        gate.open()
    assert await saved_values(tmp_path) == {1: 1, 2: 2}


async def test_a_save_in_the_middle_of_a_real_preparation_goes_first(tmp_path: Path) -> None:
    state = {"w": np.ones(1 << 22), "at": [1]}
    async with hang_guard(), Preparing(tmp_path) as saver, session_of(hook_on(saver, state)) as session:
        await session.advance()
        saved: Any = await session.save()
        assert saved.step == 1


@pytest.mark.parametrize("where", ["looking", "preparing"])
async def test_a_failure_is_noted_and_nothing_else(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError("no memory")
    caplog.set_level(logging.DEBUG, "async_ckpt")
    log = Log()
    async with hang_guard(), Preparing(tmp_path, error=error if where == "preparing" else None) as saver:
        whole = saver._flatten
        if where == "looking":

            def fail(state: Any) -> Flat:
                raise error

            monkeypatch.setattr(saver, "_flatten", fail)
        session = session_of(hook_on(saver, Weights()))
        session.subscribe(log)
        async with session:
            await session.advance()
            monkeypatch.setattr(saver, "_flatten", whole)
            await session.save()
        assert session.errors == ()
    noted = [record for record in caplog.records if "made ready" in record.getMessage()]
    assert [(record.levelno, record.exc_info and record.exc_info[1]) for record in noted] == [
        (logging.DEBUG, error)
    ]
    assert "SaveFailed" not in log.names


async def test_it_is_no_event(tmp_path: Path) -> None:
    log = Log()
    async with hang_guard(), Preparing(tmp_path) as saver:
        session = session_of(hook_on(saver, Weights()))
        session.subscribe(log)
        async with session:
            while not saver.ended:
                await asyncio.sleep(0)
    assert log.names == ["SessionBegan", "SessionEnded"]


# -- the end of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, LookupError("of the block")], ids=["clean", "error"])
async def test_it_is_cancelled_and_waited_for_at_the_exit(tmp_path: Path, error: Exception | None) -> None:
    gate, weights = Gate(), Weights()
    async with hang_guard(), Preparing(tmp_path, gate=gate) as saver:
        with contextlib.nullcontext() if error is None else pytest.raises(LookupError):
            async with session_of(hook_on(saver, weights), final_save="clean") as session:
                await gate.reached()
                weights.train()
                await session.advance()
                if error is not None:
                    raise error
        assert saver.ended == ["cancelled"]
        assert len(asyncio.all_tasks()) == 1
        assert session.errors == ()
    assert await saved_values(tmp_path) == ({1: 1} if error is None else {})


async def test_a_cancelled_entry_ends_what_was_begun(tmp_path: Path) -> None:
    gate = Gate()
    async with hang_guard(), Preparing(tmp_path / "a", gate=gate) as one, Saver(tmp_path / "b") as other:
        looking, go = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def look(state: Any) -> Flat:
            loop.call_soon_threadsafe(looking.set)
            assert go.wait(15)
            return Saver._flatten(other, state)

        other._flatten = look  # type: ignore[method-assign]
        session = session_of(hook_on(one, Weights()), hook_on(other, Weights()))
        entering = asyncio.create_task(session.__aenter__())
        await gate.reached()
        await looking.wait()
        entering.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert one.ended == ["cancelled"]
        with pytest.raises(ProtocolError):
            await session.advance()


@pytest.mark.leaks("a preparation that cannot be ended goes on")
async def test_one_that_does_not_end_holds_the_exit_no_longer_than_the_grace_period(tmp_path: Path) -> None:
    gate = Gate()
    async with hang_guard(), Preparing(tmp_path, gate=gate, stubborn=True) as saver:
        try:
            async with session_of(hook_on(saver, Weights()), grace_secs=0):
                await gate.reached()
            assert saver.ended == []
        finally:
            saver._stubborn = False
        await others_ended()
        assert saver.ended == ["cancelled"]
