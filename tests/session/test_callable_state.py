"""A callable as the state, for functional loops: when it is asked, where, and how it is restored."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, ProtocolError
from async_ckpt.testing import RecordingListener
from tests.session.lives import listed, restored_state

pytestmark = [pytest.mark.asyncio, pytest.mark.loop_flavours]


class Loop:
    """A functional training loop: every step makes a new state."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"w": np.zeros(3), "n": 0}
        self.asked_in: list[int] = []

    def __call__(self) -> dict[str, Any]:
        self.asked_in.append(threading.get_ident())
        return self.state

    def step(self) -> int:
        self.state = {"w": self.state["w"] + 1.0, "n": self.state["n"] + 1}
        return threading.get_ident()

    async def async_step(self) -> int:
        return self.step()

    def load(self, state: dict[str, Any]) -> None:
        self.state = state


def hook_on(directory: Path, loop: Loop, **more: Any) -> CheckpointSaverHook:
    return CheckpointSaverHook(directory, loop.__call__, **{"save_steps": 1, **more})


async def life(directory: Path, steps: int = 2) -> Loop:
    loop = Loop()
    hook = hook_on(directory, loop, load=loop.load)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        for _ in range(steps):
            await session.run(loop.step)
    return loop


async def test_it_is_asked_in_the_trainer_thread_after_a_plain_step(tmp_path: Path) -> None:
    loop = Loop()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, initial_save="never")]) as session:
        trainer = await session.run(loop.step)
        await session.drain()
        assert loop.asked_in == [trainer]
        assert trainer != threading.get_ident()


@pytest.mark.parametrize("by", ["run", "advance"])
async def test_it_is_asked_in_the_loops_thread_after_a_coroutine_step(tmp_path: Path, by: str) -> None:
    loop = Loop()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, initial_save="never")]) as session:
        await session.run(loop.async_step) if by == "run" else await session.advance()
        await session.drain()
        assert loop.asked_in == [threading.get_ident()]


async def test_it_is_asked_after_before_save_and_once_per_save(tmp_path: Path) -> None:
    loop = Loop()

    class Replaces:
        async def before_save(self, session: Any, step: int) -> None:
            loop.state = {"w": np.full(3, 100.0 + step), "n": -1}

    hook = hook_on(tmp_path, loop, initial_save="never", listeners=[Replaces()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await session.run(loop.step)
    assert len(loop.asked_in) == 1
    saved = await restored_state(tmp_path, 1)
    np.testing.assert_array_equal(saved["w"], np.full(3, 101.0))


async def test_without_load_the_first_step_is_refused_until_restored_was_read(tmp_path: Path) -> None:
    await life(tmp_path)
    loop = Loop()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop)]) as session:
        with pytest.raises(ProtocolError, match="load="):
            await session.run(loop.step)
        with pytest.raises(ProtocolError, match=r"session\.restored"):
            await session.advance()
        assert (session.global_step, loop.state["n"]) == (2, 0)
        assert session.restored is not None
        loop.state = session.restored.state
        await session.run(loop.step)
        assert session.global_step == 3
    np.testing.assert_array_equal((await restored_state(tmp_path, 3))["w"], np.full(3, 3.0))


async def test_without_load_a_fresh_run_just_starts(tmp_path: Path) -> None:
    loop = Loop()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop)]) as session:
        await session.run(loop.step)
    assert await listed(tmp_path) == [0, 1]


async def test_values_nobody_took_are_never_written_over_what_was_restored(tmp_path: Path) -> None:
    await life(tmp_path)
    loop = Loop()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, initial_save="always")]):
        assert loop.asked_in == []
    np.testing.assert_array_equal((await restored_state(tmp_path, 2))["w"], np.full(3, 2.0))


async def test_values_nobody_took_are_not_the_first_checkpoint_of_a_warm_start(tmp_path: Path) -> None:
    await life(tmp_path / "old")
    loop = Loop()
    async with MonitoredTrainingSession(
        hooks=[hook_on(tmp_path / "new", loop, restore=tmp_path / "old")]
    ) as session:
        assert session.restored is not None
        loop.state = session.restored.state
        await session.run(loop.step)
    assert await listed(tmp_path / "new") == [1]
    np.testing.assert_array_equal((await restored_state(tmp_path / "new", 1))["w"], np.full(3, 3.0))


async def test_after_create_session_is_early_enough_to_read_restored(tmp_path: Path) -> None:
    from async_ckpt import SessionRunHook

    await life(tmp_path)
    loop = Loop()

    class Takes(SessionRunHook):
        async def after_create_session(self, session: MonitoredTrainingSession) -> None:
            assert session.restored is not None
            loop.state = session.restored.state

    hooks = [Takes(), hook_on(tmp_path, loop, initial_save="always")]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        await session.run(loop.step)
    assert loop.state["n"] == 3


async def test_load_is_called_once_with_the_restored_tree(tmp_path: Path) -> None:
    await life(tmp_path)
    loop = Loop()
    taken: list[Any] = []
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, load=taken.append)]):
        assert len(taken) == 1
        assert taken[0]["n"] == 2
        np.testing.assert_array_equal(taken[0]["w"], np.full(3, 2.0))


async def test_load_may_be_a_coroutine_function(tmp_path: Path) -> None:
    await life(tmp_path)
    loop = Loop()

    async def load(state: dict[str, Any]) -> None:
        loop.load(state)

    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, load=load)]) as session:
        await session.run(loop.step)
    assert loop.state["n"] == 3


async def test_load_has_run_when_after_create_session_is_called_and_begin_came_first(tmp_path: Path) -> None:
    await life(tmp_path)
    loop = Loop()
    order: list[Any] = []

    def load(state: dict[str, Any]) -> None:
        order.append("load")

    listener = RecordingListener("l", order)
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, loop, load=load, listeners=[listener])]):
        pass
    assert order == [("l", "begin", None), "load", ("l", "end", 2)]


async def test_an_error_of_load_leaves_as_it_is_and_trains_nothing(tmp_path: Path) -> None:
    await life(tmp_path)

    def load(state: dict[str, Any]) -> None:
        raise LookupError("no such layer")

    with pytest.raises(LookupError, match="no such layer"):
        async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, Loop(), load=load)]):
            pytest.fail("not reached")


async def test_load_may_not_use_the_session_to_deadlock(tmp_path: Path) -> None:
    await life(tmp_path)
    errors: list[ProtocolError] = []

    async def load(state: dict[str, Any]) -> None:
        for call in (session.save, session.drain, session.advance, session.aclose):
            with pytest.raises(ProtocolError) as caught:
                await call()
            errors.append(caught.value)

    session = MonitoredTrainingSession(hooks=[hook_on(tmp_path, Loop(), load=load)], final_save="never")
    async with session:
        assert len(errors) == 4


async def test_load_works_for_a_state_that_could_not_be_filled_in_place(tmp_path: Path) -> None:
    state = {"pair": (1, np.ones(2))}
    taken: list[Any] = []
    for _ in range(2):
        hook = CheckpointSaverHook(tmp_path, state, save_steps=1, load=taken.append)
        async with MonitoredTrainingSession(hooks=[hook]):
            pass
    assert taken[0]["pair"][0] == 1


async def test_an_error_of_the_callable_surfaces_as_a_save_error_and_nothing_is_saved(tmp_path: Path) -> None:
    from async_ckpt import SaveError

    def state() -> Any:
        raise LookupError("not built yet")

    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, initial_save="never")
    with pytest.raises(SaveError) as caught:
        async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
            await session.advance()
    assert isinstance(caught.value.__cause__, LookupError)
    assert await listed(tmp_path) == []
