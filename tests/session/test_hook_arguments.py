"""Wrong arguments are refused where they are given, in words that name them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    CheckpointSaverListener,
    LatestN,
    MonitoredTrainingSession,
    ProtocolError,
    Saver,
    SessionRunHook,
    StopAtStepHook,
    UnsupportedLeafError,
)
from async_ckpt.testing import FakeClock, RecordingListener
from tests.session.lives import live, new_state, train


def build(directory: Any = "unused", state: Any = None, **more: Any) -> CheckpointSaverHook:
    if not {"save_secs", "save_steps", "save_when"} & more.keys():
        more["save_steps"] = 1
    return CheckpointSaverHook(directory, {"w": np.zeros(1)} if state is None else state, **more)


NAN = math.nan


@pytest.mark.parametrize(
    "given",
    [
        {"save_steps": None},
        {"save_steps": 1, "save_secs": 1},
        {"save_steps": 1, "save_when": bool},
        {"save_secs": 1, "save_when": bool},
        {"save_steps": 1, "save_secs": 1, "save_when": bool},
    ],
    ids=lambda given: "+".join(given),
)
def test_exactly_one_trigger_has_to_be_given(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of save_secs, save_steps and save_when"):
        build(**given)


@pytest.mark.parametrize("value", [0, -1, NAN, math.inf, 1.5, True, "3"])
def test_save_steps_is_a_positive_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="save_steps"):
        build(save_steps=value)


@pytest.mark.parametrize("value", [0, -0.5, NAN, math.inf, True, "3"])
def test_save_secs_is_a_positive_finite_number(value: Any) -> None:
    with pytest.raises(ValueError, match="save_secs"):
        build(save_secs=value)


async def _coroutine(session: Any) -> bool:
    return True


class _CallableCoroutine:
    async def __call__(self, session: Any) -> bool:
        return True


@pytest.mark.parametrize("value", [3, "step", _coroutine, _CallableCoroutine()])
def test_save_when_is_a_plain_function(value: Any) -> None:
    with pytest.raises(TypeError, match="save_when"):
        build(save_when=value)


@pytest.mark.parametrize("value", [0, -1, NAN, True, "3"])
def test_listener_timeout_secs_is_a_positive_number(value: Any) -> None:
    with pytest.raises(ValueError, match="listener_timeout_secs"):
        build(listener_timeout_secs=value)


@pytest.mark.parametrize(
    "name", ["when_busy", "honor_stop", "staging", "initial_save", "on_listener_error", "on_save_error"]
)
@pytest.mark.parametrize("value", ["sometimes", None, 1, [], {}])
def test_a_choice_is_one_of_its_words(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        build(**{name: value})


@pytest.mark.parametrize(
    "more",
    [{"save_secs": 1.0}, {"save_when": bool}, {"when_busy": "skip"}, {"when_busy": "coalesce"}],
    ids=["save_secs", "save_when", "skip", "coalesce"],
)
def test_stopping_at_the_next_save_needs_a_grid_and_waiting(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="next_save"):
        build(honor_stop="next_save", **more)


@pytest.mark.parametrize("value", [2, "all", None])
def test_votes_is_a_rule(value: Any) -> None:
    with pytest.raises(TypeError, match="votes"):
        build(votes=value)


def test_load_is_callable() -> None:
    with pytest.raises(TypeError, match="load"):
        build(load={"w": 1})


@pytest.mark.parametrize("value", ["text", [("a", 1)], 3, {1: "a"}])
def test_metadata_is_a_mapping_with_texts_as_keys(value: Any) -> None:
    with pytest.raises(TypeError, match="metadata"):
        build(metadata=value)


def test_metadata_that_cannot_be_saved_is_refused_when_the_hook_is_built() -> None:
    with pytest.raises(UnsupportedLeafError) as caught:
        build(metadata={"run": {"model": object()}})
    assert caught.value.path == "metadata/run/model"


@pytest.mark.parametrize("value", [-1, True, 1.5, b"runs", object()])
def test_restore_is_latest_a_step_a_path_or_none(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="restore"):
        build(restore=value)


@pytest.mark.parametrize("value", [None, 3, b"runs", object(), True])
def test_the_directory_is_a_path_or_a_saver(value: Any) -> None:
    with pytest.raises(TypeError, match="checkpoint_dir"):
        build(value)


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(ValueError, match="checkpoint_dir"):
        build("")
    with pytest.raises(ValueError, match="restore"):
        build(restore="")


@pytest.mark.parametrize(
    "more",
    [{"max_to_keep": -1}, {"max_to_keep": 1.5}, {"keep_checkpoint_every_n_hours": -1}, {"keep": 3}],
    ids=lambda more: next(iter(more)),
)
def test_retention_is_judged_when_the_hook_is_built(more: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        build(**more)


@pytest.mark.parametrize(
    "more",
    [
        {"max_to_keep": 3},
        {"keep": LatestN(2)},
        {"keep_checkpoint_every_n_hours": 1.0},
        {"staging": "overlap"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_belongs_to_a_saver_is_not_given_twice(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="belong to the Saver"):
        build(Saver(tmp_path), **more)


# -- listeners -------------------------------------------------------------------------------------


class OnlyEnd:
    def end(self, session: Any, step: int) -> None: ...


def test_an_object_with_one_of_the_methods_is_a_listener() -> None:
    listener = OnlyEnd()
    assert build(listeners=[listener]).listeners == (listener,)


@pytest.mark.parametrize("value", [object(), CheckpointSaverListener, OnlyEnd, None, "begin"])
def test_a_class_or_an_object_with_none_of_the_methods_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"listeners\[1\]"):
        build(listeners=[OnlyEnd(), value])


def test_the_list_is_copied_and_a_generator_consumed_when_the_hook_is_built() -> None:
    given = [OnlyEnd()]
    hook = build(listeners=given)
    given.append(OnlyEnd())
    assert len(hook.listeners) == 1
    consumed = []

    def generate() -> Iterator[OnlyEnd]:
        for _ in range(3):
            consumed.append(OnlyEnd())
            yield consumed[-1]

    hook = build(listeners=generate())
    assert hook.listeners == tuple(consumed)
    assert len(consumed) == 3


def test_two_listeners_of_one_name_are_refused_and_one_listener_twice_is_not() -> None:
    one = RecordingListener("same")
    with pytest.raises(ValueError, match="same"):
        build(listeners=[one, RecordingListener("same")])
    assert build(listeners=[one, one]).listeners == (one, one)


# -- the session -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["dirty", None, True, []])
def test_final_save_is_one_of_its_words(value: Any) -> None:
    with pytest.raises(ValueError, match="final_save"):
        MonitoredTrainingSession(final_save=value)


@pytest.mark.parametrize("value", [-1, NAN, True, "3", None])
def test_grace_secs_is_a_number_that_is_not_negative(value: Any) -> None:
    with pytest.raises(ValueError, match="grace_secs"):
        MonitoredTrainingSession(grace_secs=value)


@pytest.mark.parametrize("where", ["hooks", "chief_only_hooks"])
@pytest.mark.parametrize("value", [object(), StopAtStepHook, RecordingListener("l"), None])
def test_a_hook_is_a_session_run_hook(where: str, value: Any) -> None:
    with pytest.raises(TypeError, match="SessionRunHook"):
        MonitoredTrainingSession(**cast("Any", {where: [value]}))


@pytest.mark.parametrize("value", [99999, "SIGTERM"])
def test_a_signal_is_a_signal(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        MonitoredTrainingSession(handle_signals=[value])


def test_one_directory_in_two_hooks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "to").mkdir()
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "run"
    for other in (
        first,
        "run",
        Path("run"),
        tmp_path / "to" / ".." / "run",
        f"{first}{os.sep}",
        tmp_path / "link",
        "link",
        Saver(tmp_path / "run"),
        Saver(tmp_path / "link"),
    ):
        with pytest.raises(ValueError, match=str(first)):
            MonitoredTrainingSession(hooks=[build(first)], chief_only_hooks=[build(other)])


def test_one_directory_that_is_not_there_yet_in_two_hooks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="two saver hooks"):
        MonitoredTrainingSession(hooks=[build(tmp_path / "real" / "run"), build(tmp_path / "link" / "run")])


@pytest.mark.parametrize("chief", [True, False])
def test_one_directory_in_two_hooks_is_refused_on_workers_as_well(tmp_path: Path, chief: bool) -> None:
    with pytest.raises(ValueError, match="two saver hooks"):
        MonitoredTrainingSession(chief_only_hooks=[build(tmp_path), build(tmp_path)], is_chief=chief)


def test_different_directories_are_fine(tmp_path: Path) -> None:
    MonitoredTrainingSession(hooks=[build(tmp_path / "a"), build(tmp_path / "b")])


@pytest.mark.parametrize("chief", [True, False])
def test_a_saver_hook_serves_one_session(tmp_path: Path, chief: bool) -> None:
    hook = build(tmp_path)
    MonitoredTrainingSession(chief_only_hooks=[hook], is_chief=chief)
    with pytest.raises(ProtocolError, match="one session"):
        MonitoredTrainingSession(hooks=[hook])


def test_a_session_that_could_not_be_built_binds_no_hook(tmp_path: Path) -> None:
    used, fresh = build(tmp_path / "used"), build(tmp_path / "fresh")
    MonitoredTrainingSession(hooks=[used])
    with pytest.raises(ProtocolError):
        MonitoredTrainingSession(hooks=[fresh, used])
    with pytest.raises(ValueError, match="two saver hooks"):
        MonitoredTrainingSession(hooks=[fresh, build(tmp_path / "fresh")])
    MonitoredTrainingSession(hooks=[fresh])


@pytest.mark.asyncio
async def test_a_saver_hook_is_refused_by_a_later_session_too(tmp_path: Path) -> None:
    hook = build(tmp_path)
    async with MonitoredTrainingSession(hooks=[hook]):
        pass
    with pytest.raises(ProtocolError, match="one session"):
        MonitoredTrainingSession(hooks=[hook])


@pytest.mark.asyncio
async def test_a_session_is_entered_once(tmp_path: Path) -> None:
    session = MonitoredTrainingSession(hooks=[build(tmp_path)])
    async with session:
        with pytest.raises(ProtocolError, match="once"):
            await session.__aenter__()
    with pytest.raises(ProtocolError, match="once"):
        await session.__aenter__()


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, -1, 1.0, True, "2", None])
async def test_a_step_counter_that_does_not_move_is_refused(steps: Any) -> None:
    called = []
    async with MonitoredTrainingSession() as session:
        with pytest.raises(ValueError, match="steps"):
            await session.advance(steps)
        with pytest.raises(ValueError, match="steps"):
            await session.run(lambda: called.append(1), steps=steps)
        assert session.global_step == 0
    assert called == []


@pytest.mark.asyncio
async def test_run_needs_a_function() -> None:
    async with MonitoredTrainingSession() as session:
        with pytest.raises(TypeError, match="function"):
            await session.run("step")  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_the_session_clock_stamps_what_a_hook_of_it_saves(tmp_path: Path) -> None:
    clock, state = FakeClock(wall=1_000.0), new_state()
    hook = build(tmp_path, state)
    async with MonitoredTrainingSession(hooks=[hook], clock=clock) as session:
        clock.advance(500)
        await train(session, state, 1)
    async with Saver(tmp_path) as saver:
        assert [checkpoint.created for checkpoint in await saver.checkpoints()] == [1_000.0, 1_500.0]


@pytest.mark.asyncio
async def test_metadata_is_in_every_manifest_and_was_copied(tmp_path: Path) -> None:
    metadata = {"git": "abc", "nested": {"lr": 0.1}}
    await live(tmp_path, 1, metadata=metadata)
    metadata["git"] = "changed"
    async with Saver(tmp_path) as saver:
        for checkpoint in await saver.checkpoints():
            assert checkpoint.metadata == {"git": "abc", "nested": {"lr": 0.1}}


def test_the_abstract_hook_has_six_methods_that_do_nothing() -> None:
    defined = {name for name in vars(SessionRunHook) if not name.startswith("_")}
    assert defined == {"begin", "after_create_session", "before_run", "check", "after_run", "end"}
