"""Listeners and hooks with ``state_dict()``: saved with the checkpoint, restored with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    CheckpointSaverListener,
    ListenerError,
    MonitoredTrainingSession,
    Saver,
    SessionRunHook,
)
from tests.session.lives import listed, live, new_state, train

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


class Patience(CheckpointSaverListener):
    """Counts its saves; logs everything."""

    def __init__(self, log: list[Any] | None = None) -> None:
        self.log = [] if log is None else log
        self.before = 0
        self.after = 0

    async def begin(self) -> None:
        self.log.append("begin")

    async def before_save(self, session: Any, global_step_value: int) -> None:
        self.before += 1
        self.log.append(("before_save", global_step_value))

    async def after_save(self, session: Any, global_step_value: int) -> None:
        self.after += 1
        self.log.append(("after_save", global_step_value))

    def state_dict(self) -> dict[str, Any]:
        self.log.append("state_dict")
        return {"before": self.before, "after": self.after}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log.append(("load", dict(state)))
        self.before, self.after = state["before"], state["after"]


class Named(Patience):
    def __init__(self, name: str, log: list[Any] | None = None) -> None:
        super().__init__(log)
        self.name = name


class Other(Patience):
    pass


async def test_the_state_is_taken_as_the_last_act_of_before_save_and_again_for_the_report(
    tmp_path: Path,
) -> None:
    log: list[Any] = []
    await live(tmp_path, 1, initial_save="never", listeners=[Patience(log), Named("second", log)])
    start = log.index(("before_save", 1))
    assert log[start:][:2] == [("before_save", 1), ("before_save", 1)]
    assert log[start:] == [
        ("before_save", 1),
        ("before_save", 1),
        "state_dict",
        "state_dict",
        ("after_save", 1),
        ("after_save", 1),
        "state_dict",
        "state_dict",
    ]


async def test_the_manifest_has_the_state_before_and_the_report_the_one_behind(tmp_path: Path) -> None:
    await live(tmp_path, 1, initial_save="never", listeners=[Patience()])
    async with Saver(tmp_path) as saver:
        assert (await saver.restore(1)).listeners == {"Patience-0": {"before": 1, "after": 1}}
        (tmp_path / "step-00000001" / "report.json").unlink()
        assert (await saver.restore(1)).listeners == {"Patience-0": {"before": 1, "after": 0}}


async def test_best_so_far_survives_a_restart(tmp_path: Path) -> None:
    await live(tmp_path, 3, listeners=[Patience()])
    listener = Patience()
    await live(tmp_path, 2, listeners=[listener])
    assert (listener.before, listener.after) == (6, 6)
    assert listener.log[:2] == ["begin", ("load", {"before": 4, "after": 4})]


async def test_arrays_in_a_listeners_state_come_back_with_their_bits(tmp_path: Path) -> None:
    class Average(CheckpointSaverListener):
        def __init__(self) -> None:
            self.mean = np.zeros(3, np.float32)

        async def after_save(self, session: Any, global_step_value: int) -> None:
            self.mean += np.float32(0.1)

        def state_dict(self) -> dict[str, Any]:
            return {"mean": self.mean, "nan": float("nan")}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            assert state["nan"] != state["nan"]
            self.mean = state["mean"]

    first, second = Average(), Average()
    await live(tmp_path, 2, listeners=[first])
    await live(tmp_path, 0, listeners=[second])
    assert second.mean.dtype == np.float32
    assert second.mean.tobytes() == first.mean.tobytes()


async def test_what_the_listener_changes_later_is_not_in_what_was_taken(tmp_path: Path) -> None:
    class Aliased(CheckpointSaverListener):
        def __init__(self) -> None:
            self.state: dict[str, Any] = {"seen": []}

        async def before_save(self, session: Any, global_step_value: int) -> None:
            self.state["seen"].append(global_step_value)

        async def after_save(self, session: Any, global_step_value: int) -> None:
            self.state["seen"].append(-global_step_value)

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    await live(tmp_path, 1, initial_save="never", listeners=[Aliased()])
    (tmp_path / "step-00000001" / "report.json").unlink()
    async with Saver(tmp_path) as saver:
        assert (await saver.restore(1)).listeners["Aliased-0"] == {"seen": [1]}


# -- keys ------------------------------------------------------------------------------------------


async def test_a_name_is_the_key_wherever_the_listener_stands(tmp_path: Path) -> None:
    a, b = Named("a"), Named("b")
    a.before, b.before = 10, 20
    await live(tmp_path, 1, initial_save="never", listeners=[a, b])
    a, b = Named("a"), Named("b")
    await live(tmp_path, 0, listeners=[b, a])
    assert (a.before, b.before) == (11, 21)


async def test_without_a_name_class_and_position_are_the_key(tmp_path: Path) -> None:
    one, two = Patience(), Patience()
    two.before = 30
    await live(tmp_path, 1, initial_save="never", listeners=[one, Other(), two])
    one, two = Patience(), Patience()
    await live(tmp_path, 0, listeners=[one, Other(), two])
    assert (one.before, two.before) == (1, 31)


async def test_a_listener_without_a_saved_state_and_a_state_without_a_listener_warn(tmp_path: Path) -> None:
    await live(tmp_path, 1, listeners=[Named("old")])
    new = Named("new")
    with pytest.warns(RuntimeWarning) as caught:
        await live(tmp_path, 0, listeners=[new])
    texts = sorted(str(warning.message) for warning in caught)
    assert len(texts) == 2
    assert any("no state for listener 'new'" in text for text in texts)
    assert any("state for 'old'" in text for text in texts)
    assert ("load", {"before": 0, "after": 0}) not in new.log


async def test_a_checkpoint_of_listeners_without_states_says_nothing(tmp_path: Path) -> None:
    class Plain(CheckpointSaverListener):
        async def after_save(self, session: Any, global_step_value: int) -> None: ...

    await live(tmp_path, 1, listeners=[Plain()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await live(tmp_path, 1, listeners=[Plain()])


async def test_a_coroutine_state_dict_is_awaited(tmp_path: Path) -> None:
    class Slow(CheckpointSaverListener):
        value = 0

        async def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        async def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    one, two = Slow(), Slow()
    one.value = 9
    await live(tmp_path, 1, listeners=[one])
    await live(tmp_path, 0, listeners=[two])
    assert two.value == 9


# -- errors ----------------------------------------------------------------------------------------


class Broken(Patience):
    def __init__(self, where: str, fail_at: int = 1) -> None:
        super().__init__()
        self.name = "broken"
        self.where = where
        self.calls = 0
        self.fail_at = fail_at

    def state_dict(self) -> dict[str, Any]:
        self.calls += 1
        if self.where == "state_dict" and self.calls == self.fail_at:
            raise LookupError("no state today")
        return {"x": object()} if self.where == "leaf" else super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.where == "load":
            raise LookupError("cannot load")
        super().load_state_dict(state)


@pytest.mark.parametrize("where", ["state_dict", "leaf"])
async def test_a_state_that_cannot_be_taken_means_that_nothing_is_saved(tmp_path: Path, where: str) -> None:
    listener = Broken(where)
    with pytest.raises(ListenerError) as caught:
        await live(tmp_path, 1, initial_save="never", listeners=[listener])
    (failure,) = caught.value.errors
    assert (failure.listener, failure.phase, failure.step) == (listener, "before_save", 1)
    assert not any(isinstance(entry, tuple) and entry[0] == "after_save" for entry in listener.log)


async def test_a_state_that_cannot_be_taken_for_the_report_leaves_the_checkpoint_durable(
    tmp_path: Path,
) -> None:
    with pytest.raises(ListenerError) as caught:
        await live(tmp_path, 1, initial_save="never", listeners=[Broken("state_dict", fail_at=2)])
    assert caught.value.phase == "after_save"
    assert await listed(tmp_path) == [1]


async def test_a_failing_load_state_dict_is_a_listener_error_at_entry(tmp_path: Path) -> None:
    await live(tmp_path, 1, listeners=[Broken("nowhere")])
    with pytest.raises(ListenerError) as caught:
        await live(tmp_path, 1, listeners=[Broken("load")])
    assert caught.value.phase == "load_state_dict"
    assert isinstance(caught.value.__cause__, LookupError)


async def test_logged_instead_of_raised_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await live(tmp_path, 1, listeners=[Broken("nowhere"), Named("fine")])
    fine = Named("fine")
    await live(tmp_path, 1, listeners=[Broken("load"), fine], on_listener_error="log")
    assert await listed(tmp_path) == [0, 1, 2]
    assert fine.before == 3
    assert "cannot load" in caplog.text


async def test_one_whose_begin_failed_is_asked_for_no_state(tmp_path: Path) -> None:
    class Stillborn(Patience):
        async def begin(self) -> None:
            raise LookupError("no")

    listener = Stillborn()
    await live(tmp_path, 1, listeners=[listener], on_listener_error="log")
    assert listener.log == []


# -- hooks -----------------------------------------------------------------------------------------


class Schedule(SessionRunHook):
    def __init__(self) -> None:
        self.rate = 1.0
        self.log: list[str] = []

    async def after_run(self, run: Any) -> None:
        self.rate /= 2

    async def after_create_session(self, session: Any) -> None:
        self.log.append(f"create {self.rate}")

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate = state["rate"]


async def with_hook(directory: Path, steps: int, hook: SessionRunHook, **more: Any) -> None:
    state = new_state()
    hooks = [hook, CheckpointSaverHook(directory, state, save_steps=1)]
    async with MonitoredTrainingSession(hooks=hooks, **more) as session:
        await train(session, state, steps)


async def test_a_hook_with_a_state_survives_a_restart_and_has_it_before_after_create_session(
    tmp_path: Path,
) -> None:
    await with_hook(tmp_path, 3, Schedule())
    second = Schedule()
    await with_hook(tmp_path, 1, second)
    assert second.log == ["create 0.125"]
    assert second.rate == 0.0625


async def test_with_several_saver_hooks_a_hooks_state_is_restored_once(tmp_path: Path) -> None:
    loads: list[float] = []

    class Counted(Schedule):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            loads.append(state["rate"])

    for _ in range(2):
        one, two = new_state(), new_state()
        hooks = [
            CheckpointSaverHook(tmp_path / "a", one, save_steps=1),
            Counted(),
            CheckpointSaverHook(tmp_path / "b", two, save_steps=1),
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await session.advance()
    assert len(loads) == 1
