"""``SessionRunHook`` and the stock hooks: who is called when, and what a failing check means."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    LoggingHook,
    MonitoredTrainingSession,
    NanGuardHook,
    ProtocolError,
    Saver,
    SessionRunHook,
    StepCounterHook,
    StepRun,
    StopAtStepHook,
)
from async_ckpt.testing import FakeClock, RecordingListener
from tests.session.lives import listed, live, new_state, train

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


class Noted(SessionRunHook):
    """Writes every call down; raises where it is told to."""

    def __init__(self, name: str, log: list[Any], fail: str | None = None) -> None:
        self.name, self.log, self.fail = name, log, fail

    def _note(self, phase: str, step: int | None = None) -> None:
        self.log.append((self.name, phase, step))
        if phase == self.fail:
            raise LookupError(f"{self.name}.{phase}")

    async def begin(self) -> None:
        self._note("begin")

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        self._note("after_create_session", session.global_step)

    async def before_run(self, run: StepRun) -> None:
        self._note("before_run", run.step)

    async def check(self, run: StepRun) -> None:
        self._note("check", run.step)

    async def after_run(self, run: StepRun) -> None:
        self._note("after_run", run.step)

    async def end(self, session: MonitoredTrainingSession) -> None:
        self._note("end", session.global_step)


def saver_hook(directory: Path, state: Any, **more: Any) -> CheckpointSaverHook:
    return CheckpointSaverHook(directory, state, **{"save_steps": 1, "initial_save": "never", **more})


# -- order -----------------------------------------------------------------------------------------


async def test_every_method_is_called_in_session_order(tmp_path: Path) -> None:
    log: list[Any] = []
    state = new_state()
    listener = RecordingListener("l", log)
    hooks = [
        Noted("a", log),
        saver_hook(tmp_path, state, listeners=[listener], blocking=True),
        Noted("b", log),
    ]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        await session.run(lambda: log.append("step"))
    assert log == [
        ("a", "begin", None), ("l", "begin", None), ("b", "begin", None),
        ("a", "after_create_session", 0), ("b", "after_create_session", 0),
        ("a", "before_run", 0), ("b", "before_run", 0),
        "step",
        ("a", "check", 1), ("b", "check", 1),
        ("a", "after_run", 1),
        ("l", "before_save", 1), ("l", "after_save", 1),
        ("b", "after_run", 1),
        ("a", "end", 1), ("l", "end", 1), ("b", "end", 1),
    ]  # fmt: skip


async def test_advance_calls_them_just_as_run_does(tmp_path: Path) -> None:
    log: list[Any] = []
    async with MonitoredTrainingSession(
        hooks=[Noted("a", log)], chief_only_hooks=[Noted("c", log)]
    ) as session:
        log.clear()
        await session.advance(3)
    assert log[:-2] == [
        ("c", "before_run", 0), ("a", "before_run", 0), ("c", "check", 3), ("a", "check", 3),
        ("c", "after_run", 3), ("a", "after_run", 3),
    ]  # fmt: skip


async def test_a_step_run_says_what_happened_and_can_ask_for_the_stop() -> None:
    seen: list[tuple[str, int, int, Any]] = []

    class Looks(SessionRunHook):
        async def before_run(self, run: StepRun) -> None:
            seen.append(("before", run.step, run.steps, run.result))

        async def check(self, run: StepRun) -> None:
            seen.append(("check", run.step, run.steps, run.result))

        async def after_run(self, run: StepRun) -> None:
            seen.append(("after", run.step, run.steps, run.result))
            assert run.session is session
            run.request_stop("seen enough")
            assert not session.should_stop(), "the flag is published when the boundary is through"

    session = MonitoredTrainingSession(hooks=[Looks()])
    async with session:
        assert await session.run(lambda: {"loss": 0.5}, steps=2) == {"loss": 0.5}
        assert session.should_stop()
        assert session.stop_reason == "seen enough"
    assert seen == [("before", 0, 2, None), ("check", 2, 2, {"loss": 0.5}), ("after", 2, 2, {"loss": 0.5})]


# -- errors ----------------------------------------------------------------------------------------


async def test_an_error_in_begin_gives_end_to_those_that_began(tmp_path: Path) -> None:
    log: list[Any] = []
    hooks = [Noted("a", log), Noted("b", log, fail="begin"), Noted("c", log)]
    with pytest.raises(LookupError, match=r"b\.begin"):
        async with MonitoredTrainingSession(hooks=hooks):
            pytest.fail("not reached")
    assert log == [("a", "begin", None), ("b", "begin", None), ("a", "end", 0)]


async def test_an_error_in_after_create_session_leaves_and_everyone_ends(tmp_path: Path) -> None:
    log: list[Any] = []
    hooks = [Noted("a", log, fail="after_create_session"), Noted("b", log)]
    with pytest.raises(LookupError):
        async with MonitoredTrainingSession(hooks=hooks):
            pytest.fail("not reached")
    assert [entry[:2] for entry in log[-2:]] == [("a", "end"), ("b", "end")]


async def test_an_error_in_before_run_means_that_the_step_never_was(tmp_path: Path) -> None:
    log: list[Any] = []
    called: list[int] = []
    session = MonitoredTrainingSession(hooks=[Noted("a", log, fail="before_run")])
    with pytest.raises(LookupError, match=r"a\.before_run"):
        async with session:
            await session.run(lambda: called.append(1))
    assert called == []
    assert session.global_step == 0


async def test_a_failing_check_keeps_the_step_unsaved_the_final_save_included(tmp_path: Path) -> None:
    log: list[Any] = []
    state = new_state()
    hooks = [saver_hook(tmp_path, state), Noted("guard", log, fail="check"), Noted("b", log)]
    for final in ("clean", "always"):
        log.clear()
        with pytest.raises(LookupError, match=r"guard\.check"):
            hooks = [
                saver_hook(tmp_path / final, state), Noted("guard", log, fail="check"), Noted("b", log)
            ]  # fmt: skip
            async with MonitoredTrainingSession(hooks=hooks, final_save=final) as session:
                await train(session, state, 1)
        assert await listed(tmp_path / final) == []
        assert not any(phase == "after_run" for _, phase, _ in log), "every check precedes every after_run"
        assert session.global_step == 1


async def test_after_a_caught_failing_check_nothing_of_that_step_is_saved_on_the_way_out(
    tmp_path: Path,
) -> None:
    state, log = new_state(), list[Any]()
    async with MonitoredTrainingSession(
        hooks=[Noted("g", log, fail="check"), saver_hook(tmp_path, state)]
    ) as s:
        with pytest.raises(LookupError):
            await train(s, state, 1)
        with pytest.raises(ProtocolError, match="check refused"):
            await s.save()
    assert await listed(tmp_path) == []


async def test_a_step_that_passes_its_checks_again_is_saved_again(tmp_path: Path) -> None:
    state, log = new_state(), list[Any]()
    guard = Noted("g", log, fail="check")
    async with MonitoredTrainingSession(hooks=[guard, saver_hook(tmp_path, state)]) as session:
        with pytest.raises(LookupError):
            await train(session, state, 1)
        guard.fail = None
        await train(session, state, 1)
    assert await listed(tmp_path) == [2]


async def test_an_error_in_after_run_leaves_and_the_earlier_hooks_save_stands(tmp_path: Path) -> None:
    state, log = new_state(), list[Any]()
    with pytest.raises(LookupError, match=r"late\.after_run"):
        async with MonitoredTrainingSession(
            hooks=[saver_hook(tmp_path, state), Noted("late", log, fail="after_run")]
        ) as session:
            await train(session, state, 1)
    assert await listed(tmp_path) == [1]


async def test_everyone_gets_its_end_and_the_first_error_of_them_leaves() -> None:
    log: list[Any] = []
    hooks = [Noted("a", log, fail="end"), Noted("b", log, fail="end"), Noted("c", log)]
    with pytest.raises(LookupError, match=r"a\.end") as caught:
        async with MonitoredTrainingSession(hooks=hooks):
            pass
    assert [entry[0] for entry in log if entry[1] == "end"] == ["a", "b", "c"]
    assert any("b.end" in note for note in caught.value.__notes__)


# -- StopAtStepHook --------------------------------------------------------------------------------


async def run_until_stop(session: MonitoredTrainingSession, steps: int = 1) -> int:
    taken = 0
    while not session.should_stop():
        await session.advance(steps)
        taken += 1
        assert taken < 100
    return taken


async def test_it_stops_at_the_last_step() -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=5)]) as session:
        assert await run_until_stop(session) == 5
        assert session.stop_reason == "reached step 5"


async def test_it_stops_at_the_first_boundary_at_or_behind_it() -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=5)]) as session:
        assert await run_until_stop(session, steps=3) == 2
        assert session.global_step == 6


async def test_it_counts_steps_from_where_the_session_starts(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    state = new_state()
    async with MonitoredTrainingSession(
        hooks=[StopAtStepHook(num_steps=2), saver_hook(tmp_path, state)]
    ) as session:
        assert await run_until_stop(session) == 2
        assert session.global_step == 5


@pytest.mark.parametrize("last", [3, 2, 0])
async def test_a_finished_job_trains_no_step_more(tmp_path: Path, last: int) -> None:
    await live(tmp_path, 3)
    state = new_state()
    async with MonitoredTrainingSession(
        hooks=[StopAtStepHook(last_step=last), saver_hook(tmp_path, state)]
    ) as s:
        assert s.should_stop()
        assert await run_until_stop(s) == 0
    assert s.global_step == 3


async def test_no_steps_are_no_steps() -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(num_steps=0)]) as session:
        assert session.should_stop()


@pytest.mark.parametrize(
    "given",
    [{}, {"last_step": 1, "num_steps": 1}, {"last_step": -1}, {"num_steps": 1.5}, {"last_step": True}],
    ids=str,
)
async def test_it_needs_exactly_one_count(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        StopAtStepHook(**given)


# -- StepCounterHook and LoggingHook ---------------------------------------------------------------


async def test_the_rate_is_measured_over_steps(caplog: pytest.LogCaptureFixture) -> None:
    clock, counter = FakeClock(), StepCounterHook(every_n_steps=2)
    caplog.set_level(logging.INFO, logger="async_ckpt")
    async with MonitoredTrainingSession(hooks=[counter], clock=clock) as session:
        clock.advance(1)
        await session.advance()
        assert counter.steps_per_sec is None
        clock.advance(3)
        await session.advance()
        assert counter.steps_per_sec == 0.5
        clock.advance(1)
        await session.advance(4)
        assert counter.steps_per_sec == 4.0
    assert "step 2: 0.5 steps/s" in caplog.text


async def test_the_rate_is_measured_over_seconds() -> None:
    clock, counter = FakeClock(), StepCounterHook(every_n_steps=None, every_n_secs=10)
    async with MonitoredTrainingSession(hooks=[counter], clock=clock) as session:
        await session.advance(3)
        clock.advance(9.5)
        await session.advance()
        assert counter.steps_per_sec is None
        clock.advance(0.5)
        await session.advance()
        assert counter.steps_per_sec == 0.5


async def test_steps_in_no_time_are_infinitely_many() -> None:
    counter = StepCounterHook(every_n_steps=1)
    async with MonitoredTrainingSession(hooks=[counter], clock=FakeClock()) as session:
        await session.advance()
    assert counter.steps_per_sec == math.inf


@pytest.mark.parametrize(
    "given",
    [
        {"every_n_secs": 1.0}, {"every_n_steps": None}, {"every_n_steps": 0}, {"every_n_steps": -1},
        {"every_n_steps": None, "every_n_secs": math.nan}, {"every_n_steps": "3"}, {"every_n_steps": 1.5},
        {"every_n_steps": True}, {"every_n_steps": None, "every_n_secs": math.inf},
    ],
    ids=str,
)  # fmt: skip
async def test_the_counter_needs_exactly_one_positive_interval(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        StepCounterHook(**given)


async def test_metrics_are_logged_every_so_many_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="async_ckpt")
    async with MonitoredTrainingSession(hooks=[LoggingHook(every_n_steps=2)]) as session:
        for step in range(5):
            session.metrics["loss"] = 1 / (step + 1)
            session.metrics["lr"] = 0.1
            await session.advance()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["step 2: loss=0.5, lr=0.1", "step 4: loss=0.25, lr=0.1"]


async def test_named_metrics_alone_are_logged_at_the_level_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="async_ckpt")
    hook = LoggingHook(["lr", "absent"], every_n_steps=1, level=logging.DEBUG)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await session.advance()
        session.metrics.update(loss=1.0, lr=float(np.float32(0.5)))
        await session.advance()
    shown = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert shown == [(logging.DEBUG, "step 1: no metrics"), (logging.DEBUG, "step 2: lr=0.5")]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
async def test_the_logging_interval_is_positive(value: Any) -> None:
    with pytest.raises(ValueError, match="every_n_steps"):
        LoggingHook(every_n_steps=value)


# -- NanGuardHook ----------------------------------------------------------------------------------


BAD_RESULTS = {
    "float": math.nan,
    "infinity": -math.inf,
    "numpy scalar": np.float32("nan"),
    "half": np.float16("inf"),
    "array": np.array([1.0, math.nan]),
    "mapping": {"loss": 1.0, "inner": {"grad": np.array([math.inf])}},
    "complex": complex(0, math.nan),
    "complex array": np.array([1j, complex(math.nan, 0)]),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
async def test_a_result_that_is_not_finite_stops_the_step_from_being_saved(tmp_path: Path, name: str) -> None:
    state = new_state()
    with pytest.raises(FloatingPointError, match=r"result.* at step 1"):
        async with MonitoredTrainingSession(hooks=[saver_hook(tmp_path, state), NanGuardHook()]) as session:
            await session.run(lambda: BAD_RESULTS[name])
    assert await listed(tmp_path) == []


@pytest.mark.parametrize(
    "result", [None, 1, "nan", 0.5, np.arange(3), {"a": None, "b": True}, [math.pi]], ids=str
)
async def test_a_result_that_is_finite_or_no_number_is_none_of_its_business(result: Any) -> None:
    async with MonitoredTrainingSession(hooks=[NanGuardHook()]) as session:
        await session.run(lambda: result)


async def test_a_named_metric_that_is_not_finite_stops_it_too(tmp_path: Path) -> None:
    state = new_state()
    with pytest.raises(FloatingPointError, match="metric 'loss'"):
        async with MonitoredTrainingSession(hooks=[NanGuardHook(), saver_hook(tmp_path, state)]) as session:
            session.metrics["other"] = math.nan
            await session.advance()
            session.metrics["loss"] = math.nan
            await session.advance()
    assert await listed(tmp_path) == [1]


async def test_the_state_is_looked_at_only_when_a_save_is_due(tmp_path: Path) -> None:
    state = new_state()
    hooks = [NanGuardHook(), saver_hook(tmp_path, state, save_steps=3)]
    with pytest.raises(FloatingPointError, match=r"state leaf 'w' is not finite at step 3"):
        async with MonitoredTrainingSession(hooks=hooks) as session:
            state["w"][1] = math.nan
            await session.advance()
            await session.advance()
            await session.advance()
    assert await listed(tmp_path) == []


async def test_a_requested_save_is_due_as_well(tmp_path: Path) -> None:
    state = new_state()
    hooks = [NanGuardHook(), saver_hook(tmp_path, state, save_steps=100)]
    async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
        state["w"][0] = math.inf
        await session.advance()
        request = asyncio.get_running_loop().create_task(session.save())
        await asyncio.sleep(0)
        with pytest.raises(FloatingPointError, match="step 2"):
            await session.advance()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_save_when_is_asked_once_per_boundary_although_the_guard_asked_before(tmp_path: Path) -> None:
    asked: list[int] = []
    state = new_state()

    def when(session: MonitoredTrainingSession) -> bool:
        asked.append(session.global_step)
        return session.global_step == 2

    hook = CheckpointSaverHook(tmp_path, state, save_when=when, initial_save="never")
    async with MonitoredTrainingSession(hooks=[NanGuardHook(), hook]) as session:
        for _ in range(3):
            await session.advance()
    assert asked == [1, 2, 3]
    assert await listed(tmp_path) == [2, 3]


async def test_without_state_the_leaves_are_left_alone(tmp_path: Path) -> None:
    state = {"w": np.array([math.nan])}
    async with MonitoredTrainingSession(
        hooks=[NanGuardHook(state=False), saver_hook(tmp_path, state)]
    ) as session:
        await session.advance()
    assert await listed(tmp_path) == [1]


async def test_the_leaves_are_looked_at_off_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from async_ckpt import hooks as module

    looked: list[int] = []

    def look(value: Any) -> bool:
        if getattr(value, "size", 0) == 4:
            looked.append(threading.get_ident())
        return True

    class Model:
        w = np.zeros(4)

        def state_dict(self) -> dict[str, Any]:
            return {"w": self.w}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    monkeypatch.setattr(module, "all_finite", look)
    for number, state in enumerate(({"w": np.zeros(4)}, {"model": Model()}, lambda: {"w": np.zeros(4)})):
        looked.clear()
        hooks = [NanGuardHook(), saver_hook(tmp_path / str(number), state)]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await session.advance()
        assert looked
        assert threading.get_ident() not in looked, "whatever the state is and whoever ran the step"


async def test_a_big_result_is_looked_at_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from async_ckpt import hooks as module

    looked: list[int] = []
    finite = module.all_finite

    def look(value: Any) -> bool:
        looked.append(threading.get_ident())
        return finite(value)

    monkeypatch.setattr(module, "all_finite", look)
    big = np.zeros(1_000_000)
    async with MonitoredTrainingSession(hooks=[NanGuardHook()]) as session:
        await session.run(lambda: {"small": 1.0, "big": big})
        assert looked[0] == threading.get_ident(), "a hop for a number costs more than the look"
        assert looked[1] != threading.get_ident()
        big[-1] = math.nan
        with pytest.raises(FloatingPointError, match="big"):
            await session.run(lambda: {"big": big})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
async def test_torch_leaves_that_require_gradients_or_are_bfloat16_are_looked_at(
    tmp_path: Path, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(3, dtype=getattr(torch, dtype)))
    async with MonitoredTrainingSession(
        hooks=[NanGuardHook(), saver_hook(tmp_path, {"w": weight})], final_save="never"
    ) as session:
        await session.run(lambda: weight)
        with torch.no_grad():
            weight[1] = math.nan
        with pytest.raises(FloatingPointError, match="'w'"):
            await session.advance()
        with pytest.raises(FloatingPointError, match="result"):
            await session.run(lambda: weight)


async def test_bfloat16_of_numpy_is_looked_at(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    state: dict[str, Any] = {"w": np.zeros(3, ml_dtypes.bfloat16), "words": "nan", "count": 3}
    async with MonitoredTrainingSession(
        hooks=[NanGuardHook(), saver_hook(tmp_path, state)], final_save="never"
    ) as s:
        await s.advance()
        state["w"][2] = math.nan
        with pytest.raises(FloatingPointError, match="'w'"):
            await s.advance()
    async with Saver(tmp_path) as saver:
        assert [checkpoint.step for checkpoint in await saver.checkpoints()] == [1]


async def test_a_plain_float_in_the_state_is_a_leaf_like_any_other(tmp_path: Path) -> None:
    state = {"w": np.zeros(2), "scale": 1.0, "history": [0.5, math.inf]}
    with pytest.raises(FloatingPointError, match="history/1"):
        async with MonitoredTrainingSession(hooks=[NanGuardHook(), saver_hook(tmp_path, state)]) as session:
            await session.advance()
