"""``session.saved_state()`` and ``session.report()``: what ``after_save`` knows of its checkpoint."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import ListenerError, MonitoredTrainingSession, ProtocolError, Saver, SessionRunHook, StepRun
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Disk, Weights, hang_guard, saver_hook

pytestmark = pytest.mark.loop_flavours


class Looking:
    """Keeps what it saw of each checkpoint."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.gate = gate
        self.kept: dict[int, Any] = {}

    async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
        if self.gate is not None:
            await self.gate()
        self.kept[step] = await session.saved_state()


@pytest.mark.asyncio
async def test_it_is_exactly_what_was_saved_even_though_training_has_moved_on(tmp_path: Path) -> None:
    weights, gate = Weights(), Gate()
    listener = Looking(gate)
    hook = saver_hook(tmp_path, weights, save_steps=3, listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        for _ in range(3):
            await session.run(weights.train)
        await gate.reached()
        for _ in range(2):
            await session.run(weights.train)
        assert weights.tree["at"] == [5]
        gate.open()
        await session.drain()
    seen = listener.kept[3]
    assert seen["at"] == [3]
    assert set(seen["model"]["w"].tolist()) == {3.0}
    async with Saver(tmp_path) as saver:
        on_disk = (await saver.restore(3)).state
    assert on_disk["at"] == seen["at"]
    assert np.array_equal(on_disk["model"]["w"], seen["model"]["w"])
    assert on_disk["model"]["w"].dtype == seen["model"]["w"].dtype


@pytest.mark.asyncio
async def test_it_is_read_only_and_changing_its_containers_changes_nothing_else(tmp_path: Path) -> None:
    weights = Weights()
    errors: list[BaseException] = []
    seen: list[Any] = []

    class First:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            state = await session.saved_state()
            try:
                state["model"]["w"][0] = 7.0
            except ValueError as error:
                errors.append(error)
            state["at"].append("mine")
            del state["model"]

    class Second:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            seen.append(await session.saved_state())

    hook = saver_hook(tmp_path, weights, listeners=[First(), Second()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
    assert len(errors) == 1
    assert seen[0]["at"] == [0]
    assert set(seen[0]["model"]["w"].tolist()) == {0.0}
    assert weights.tree["at"] == [0]


@pytest.mark.asyncio
async def test_values_kept_after_the_callback_are_never_overwritten(tmp_path: Path) -> None:
    weights, listener = Weights(50_000), Looking()
    hook = saver_hook(tmp_path, weights, save_steps=1, listeners=[listener])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        for _ in range(6):
            await session.run(weights.train)
    # The staged memory is used again and again, and given back at the exit.
    for step, state in listener.kept.items():
        assert state["at"] == [step]
        assert set(state["model"]["w"].tolist()) == {float(step)}
    assert sorted(listener.kept) == list(range(7))


@pytest.mark.asyncio
async def test_no_disk_is_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, listener = Disk(tmp_path), Looking()

    async def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the disk was read")

    hook = saver_hook(
        disk, Weights(), save_steps=1, listeners=[listener], initial_save="never", max_to_keep=0
    )
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        monkeypatch.setattr(disk, "read_into", refused)
        await session.advance()
        await session.drain()
        assert list(listener.kept) == [1]


@pytest.mark.asyncio
async def test_each_hook_shows_its_own_checkpoint(tmp_path: Path) -> None:
    listeners = [Looking(), Looking()]
    states = [{"mine": np.full(3, 1.0)}, {"mine": np.full(3, 2.0)}]
    hooks = [
        saver_hook(tmp_path / str(n), state, listeners=[listener])
        for n, (state, listener) in enumerate(zip(states, listeners, strict=True))
    ]
    async with hang_guard(), MonitoredTrainingSession(hooks=hooks) as session:
        await session.drain()
    assert [listener.kept[0]["mine"][0] for listener in listeners] == [1.0, 2.0]


@pytest.mark.asyncio
@pytest.mark.parametrize("where", ["begin", "before_save", "end"])
async def test_in_the_other_callbacks_both_are_refused(tmp_path: Path, where: str) -> None:
    refused = []

    async def ask(session: MonitoredTrainingSession) -> None:
        with pytest.raises(ProtocolError, match="after_save"):
            await session.saved_state()
        with pytest.raises(ProtocolError, match="after_save"):
            session.report({"accuracy": 1.0})
        refused.append(where)

    class Listener:
        async def begin(self) -> None:
            if where == "begin":
                await ask(session)

        async def before_save(self, session: MonitoredTrainingSession, step: int) -> None:
            if where == "before_save":
                await ask(session)

        async def end(self, session: MonitoredTrainingSession, step: int) -> None:
            if where == "end":
                await ask(session)

    session = MonitoredTrainingSession(hooks=[saver_hook(tmp_path, Weights(), listeners=[Listener()])])
    async with hang_guard(), session:
        await session.drain()
    assert refused == [where]


@pytest.mark.asyncio
async def test_outside_callbacks_in_steps_and_in_hooks_both_are_refused(tmp_path: Path) -> None:
    async def ask(session: MonitoredTrainingSession) -> None:
        with pytest.raises(ProtocolError, match="after_save"):
            await session.saved_state()
        with pytest.raises(ProtocolError, match="after_save"):
            session.report({"accuracy": 1.0})

    class Hook(SessionRunHook):
        async def after_run(self, run: StepRun) -> None:
            await ask(run.session)

    hook = saver_hook(tmp_path, Weights(), save_steps=1)
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook, Hook()]) as session:
        await ask(session)
        await session.run(ask, session)
        await session.drain()
        await ask(session)


@pytest.mark.asyncio
async def test_a_task_left_behind_by_after_save_has_no_checkpoint_any_more(tmp_path: Path) -> None:
    go, tasks, held = asyncio.Event(), [], Gate()

    async def later(session: MonitoredTrainingSession) -> None:
        await go.wait()
        with pytest.raises(ProtocolError):
            await session.saved_state()
        with pytest.raises(ProtocolError):
            session.report({"late": 1.0})

    class First:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            tasks.append(asyncio.create_task(later(session)))

    second = RecordingListener("second", gates={"after_save": held})
    hook = saver_hook(tmp_path, Weights(), listeners=[First(), second])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]):
        await held.reached()
        # The round is still in flight, and another callback runs; the first one is over all the same.
        go.set()
        await tasks[0]
        held.open()


@pytest.mark.asyncio
async def test_a_task_that_after_save_waits_for_sees_the_checkpoint(tmp_path: Path) -> None:
    seen = []

    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(look(session))

    async def look(session: MonitoredTrainingSession) -> None:
        seen.append((await session.saved_state())["at"])
        session.report({"seen": 1})

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
    assert seen == [[0]]


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_what_is_reported_is_in_report_json_and_in_the_listing(tmp_path: Path, plain: bool) -> None:
    class Listener:
        pass

    def report(session: MonitoredTrainingSession, step: int) -> None:
        session.report({"accuracy": 0.5})
        session.report({"accuracy": 0.75, "loss": step})

    async def report_too(session: MonitoredTrainingSession, step: int) -> None:
        report(session, step)

    listener = Listener()
    listener.after_save = report if plain else report_too  # type: ignore[attr-defined]
    hook = saver_hook(tmp_path, Weights(), listeners=[listener], initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook]) as session:
        session.metrics["loss"] = 9.0
        session.metrics["lr"] = 0.1
        await session.advance()
    async with Saver(tmp_path) as saver:
        checkpoint = (await saver.checkpoints())[0]
    assert dict(checkpoint.metrics) == {"loss": 1.0, "lr": 0.1, "accuracy": 0.75}
    text = (tmp_path / "step-00000001" / "report.json").read_text()
    assert "accuracy" in json.dumps(json.loads(text))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("metrics", "kind"),
    [({1: 1.0}, TypeError), ({"a": "high"}, TypeError), ({"a": None}, TypeError), ({"a": [1.0]}, TypeError)],
)
async def test_a_report_that_is_none_is_the_callbacks_error_and_changes_nothing(
    tmp_path: Path, metrics: Any, kind: type[Exception]
) -> None:
    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            session.report({"good": 1.0})
            session.report({"before": 1.0, **metrics})

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard():
        with pytest.raises(ListenerError) as caught:
            async with MonitoredTrainingSession(hooks=[hook]):
                pass
    assert isinstance(caught.value.__cause__, kind)
    async with Saver(tmp_path) as saver:
        assert dict((await saver.checkpoints())[0].metrics) == {"good": 1.0}


@pytest.mark.asyncio
async def test_what_a_callback_reported_before_it_failed_stays_reported(tmp_path: Path) -> None:
    class Listener:
        async def after_save(self, session: MonitoredTrainingSession, step: int) -> None:
            session.report({"accuracy": 0.5})
            raise LookupError

    hook = saver_hook(tmp_path, Weights(), listeners=[Listener()])
    async with hang_guard():
        with pytest.raises(ListenerError):
            async with MonitoredTrainingSession(hooks=[hook]):
                pass
    async with Saver(tmp_path) as saver:
        assert dict((await saver.checkpoints())[0].metrics) == {"accuracy": 0.5}
