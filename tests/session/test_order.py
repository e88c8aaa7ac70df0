"""Who is called, where, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession, Saver
from async_ckpt.testing import RecordingListener
from tests.session.support import SlowStore, advance, saver_on, soon, until, weights

pytestmark = pytest.mark.loop_flavours

Log = list[tuple[str, str, int | None]]


# -- what is taken for a listener ------------------------------------------------------------


async def one_save(tmp_path: Path, *listeners: object) -> None:
    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=1, initial_save="never", listeners=listeners)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 1)


@pytest.mark.asyncio
async def test_coroutine_methods_are_called_with_the_session_and_a_python_int(tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    class Listener(CheckpointSaverListener):
        async def begin(self) -> None:
            seen.append(("begin",))

        async def before_save(self, *arguments: Any) -> None:
            seen.append(("before_save", *arguments))

        async def after_save(self, *arguments: Any) -> None:
            seen.append(("after_save", *arguments))

        async def end(self, *arguments: Any) -> None:
            seen.append(("end", *arguments))

    hook = CheckpointSaverHook(
        tmp_path, weights(), save_steps=2, initial_save="never", listeners=[Listener()]
    )
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 2)
    assert seen == [
        ("begin",),
        ("before_save", session, 2),
        ("after_save", session, 2),
        ("end", session, 2),
    ]
    assert all(type(call[2]) is int for call in seen[1:])


@pytest.mark.asyncio
async def test_plain_methods_run_in_one_thread_of_their_own_and_never_on_the_loop(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    class Plain:
        def begin(self) -> None:
            threads.append(threading.current_thread())

        def before_save(self, session: Any, step: int) -> None:
            threads.append(threading.current_thread())

        def after_save(self, session: Any, step: int) -> None:
            threads.append(threading.current_thread())

        def end(self, session: Any, step: int) -> None:
            threads.append(threading.current_thread())

    await one_save(tmp_path, Plain(), Plain())
    assert len(threads) == 8
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


@pytest.mark.asyncio
async def test_a_plain_method_that_blocks_does_not_block_the_loop(tmp_path: Path) -> None:
    opened = threading.Event()

    class Plain:
        def before_save(self, session: Any, step: int) -> None:
            assert opened.wait(20)

    async def open_it() -> None:
        opened.set()

    opener = asyncio.create_task(open_it())
    await one_save(tmp_path, Plain())
    await opener


@pytest.mark.asyncio
async def test_an_awaitable_that_a_plain_method_returns_is_awaited(tmp_path: Path) -> None:
    loops: list[object] = []

    class Mixed:
        def after_save(self, session: Any, step: int) -> Any:
            async def vote() -> bool:
                loops.append(asyncio.get_running_loop())
                return True

            return vote()

    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=1, initial_save="never", listeners=[Mixed()])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 1)
        await session.drain()
    assert loops == [asyncio.get_running_loop()]
    assert [vote.step for vote in session.votes] == [1]


@pytest.mark.asyncio
async def test_any_object_with_one_of_the_methods_is_a_listener(tmp_path: Path) -> None:
    log: list[str] = []

    class OnlyEnd:
        async def end(self, session: Any, step: int) -> None:
            log.append("end")

    class OnlyCallable:
        def __init__(self) -> None:
            self.before_save = _Callable(log)

    await one_save(tmp_path, OnlyEnd(), OnlyCallable(), CheckpointSaverListener())
    assert log == ["called", "end"]


class _Callable:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def __call__(self, session: Any, step: int) -> None:
        self.log.append("called")


def test_an_object_without_any_of_the_methods_is_refused_when_the_hook_is_built(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object with none of the methods"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, listeners=[object()])
    assert list(tmp_path.iterdir()) == []


def test_attributes_that_cannot_be_called_do_not_make_a_listener(tmp_path: Path) -> None:
    class Fields:
        begin = 1
        end = "now"

    with pytest.raises(TypeError, match="none of the methods"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, listeners=[Fields()])


def test_a_class_instead_of_an_instance_is_refused_when_the_hook_is_built(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="the class CheckpointSaverListener, not an instance"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, listeners=[CheckpointSaverListener])


@pytest.mark.asyncio
async def test_the_list_is_copied_when_the_hook_is_built(tmp_path: Path) -> None:
    log: Log = []
    listeners = [RecordingListener("A", log)]
    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=1, listeners=listeners)
    listeners.append(RecordingListener("B", log))
    async with MonitoredTrainingSession(hooks=[hook]):
        pass
    assert {name for name, _, _ in log} == {"A"}


@pytest.mark.asyncio
async def test_a_generator_is_consumed_once_when_the_hook_is_built(tmp_path: Path) -> None:
    log: Log = []
    made: list[str] = []

    def generate() -> Iterator[RecordingListener]:
        for name in "AB":
            made.append(name)
            yield RecordingListener(name, log)

    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=1, initial_save="never", listeners=generate())
    assert made == ["A", "B"]
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 2)
    assert made == ["A", "B"]
    assert len(log) == 2 * (1 + 2 + 2 + 1)


@pytest.mark.asyncio
async def test_the_same_object_twice_is_called_twice(tmp_path: Path) -> None:
    listener = RecordingListener("A")
    await one_save(tmp_path, listener, listener)
    assert listener.calls == {"begin": 2, "before_save": 2, "after_save": 2, "end": 2}


# -- order over listeners, hooks and rounds --------------------------------------------------


@pytest.mark.asyncio
async def test_listeners_are_called_in_registration_order_in_every_phase_end_included(tmp_path: Path) -> None:
    log: Log = []
    await one_save(tmp_path, *(RecordingListener(name, log) for name in "CAB"))
    assert log == [
        (name, phase, step)
        for phase, step in (("begin", None), ("before_save", 1), ("after_save", 1), ("end", 1))
        for name in "CAB"
    ]


@contextlib.asynccontextmanager
async def two_hooks(*, log: Log, save_steps: int = 1, **options: Any) -> Any:
    """Two saver hooks with two listeners each: A and B behind the first, C and D behind the second."""
    stores = SlowStore(), SlowStore()
    async with saver_on(stores[0]) as first, saver_on(stores[1]) as second:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=save_steps,
                initial_save="never",
                listeners=[RecordingListener(name, log, **options) for name in names],
            )
            for saver, names in ((first, "AB"), (second, "CD"))
        ]
        yield stores, hooks


@pytest.mark.asyncio
async def test_a_round_prepares_all_hooks_then_reports_all_hooks_in_hook_order() -> None:
    log: Log = []
    async with two_hooks(log=log) as (_, hooks), MonitoredTrainingSession(hooks=hooks) as session:
        await advance(session, 2)
        await soon(session.drain())
    assert log == [
        (name, phase, step)
        for phase, step in (
            ("begin", None),
            ("before_save", 1),
            ("after_save", 1),
            ("before_save", 2),
            ("after_save", 2),
            ("end", 2),
        )
        for name in "ABCD"
    ]


@pytest.mark.asyncio
async def test_chief_only_hooks_come_first() -> None:
    log: Log = []
    async with (
        two_hooks(log=log) as (_, hooks),
        MonitoredTrainingSession(hooks=hooks[:1], chief_only_hooks=hooks[1:]) as session,
    ):
        await advance(session, 1)
    assert log == [
        (name, phase, step)
        for phase, step in (("begin", None), ("before_save", 1), ("after_save", 1), ("end", 1))
        for name in "CDAB"
    ]


@pytest.mark.asyncio
async def test_commits_and_after_save_keep_hook_order_whichever_write_ends_first() -> None:
    log: Log = []
    async with two_hooks(log=log) as (stores, hooks), MonitoredTrainingSession(hooks=hooks) as session:
        first, second = stores
        slow = first.hold("write", 1)
        committing = second.hold("commit", 1)
        await advance(session, 1)
        await soon(slow.reached())
        # The second hook has written everything and may not go on: its commit comes behind the first's.
        await soon(_written(hooks[1].saver))
        assert first.done == []
        assert [entry for entry in log if entry[1] == "after_save"] == []
        slow.open()
        await soon(committing.reached())
        assert [name for name, phase, _ in log if phase == "after_save"] == ["A", "B"]
        assert ("commit", 1) in first.done
        assert second.done == []
        committing.open()
        await soon(session.drain())
    assert [name for name, phase, _ in log if phase == "after_save"] == ["A", "B", "C", "D"]


async def _written(saver: Saver) -> None:
    job = saver._line._current
    assert job is not None
    await job.pending.written()


@pytest.mark.asyncio
async def test_no_before_save_of_a_later_round_before_every_after_save_of_the_earlier() -> None:
    log: Log = []
    async with two_hooks(log=log) as (stores, hooks), MonitoredTrainingSession(hooks=hooks) as session:
        gate = stores[1].hold("write", 1)
        await advance(session, 1)
        await soon(gate.reached())
        step = asyncio.create_task(session.advance())
        await until(lambda: session._scheduler.machine.held is not None)
        assert not step.done()
        assert ("A", "before_save", 2) not in log
        gate.open()
        await soon(step)
        await soon(session.drain())
    phases = [(phase, step) for _, phase, step in log]
    assert phases.index(("before_save", 2)) > max(
        place for place, entry in enumerate(phases) if entry == ("after_save", 1)
    )


@pytest.mark.asyncio
async def test_hooks_due_at_different_steps_still_share_one_round_in_flight() -> None:
    """The second hook's save at step 3 waits for the first hook's round of step 2."""
    log: Log = []
    stores = SlowStore(), SlowStore()
    async with saver_on(stores[0]) as one, saver_on(stores[1]) as other:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=every,
                initial_save="never",
                listeners=[RecordingListener(name, log)],
            )
            for saver, every, name in ((one, 2, "A"), (other, 3, "B"))
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            gate = stores[0].hold("write", 2)
            await advance(session, 2)
            step = asyncio.create_task(session.advance())
            await until(lambda: session._scheduler.machine.held == 1)
            gate.open()
            await soon(step)
    assert [entry for entry in log if entry[2] is not None] == [
        ("A", "before_save", 2),
        ("A", "after_save", 2),
        ("B", "before_save", 3),
        ("B", "after_save", 3),
        # the final round: only hooks whose last step is not durable
        ("A", "before_save", 3),
        ("A", "after_save", 3),
        ("A", "end", 3),
        ("B", "end", 3),
    ]


@pytest.mark.asyncio
async def test_at_most_one_callback_runs_at_any_moment_over_all_listeners() -> None:
    running: list[str] = []
    most = 0

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        async def _call(self) -> None:
            nonlocal most
            running.append(self.name)
            most = max(most, len(running))
            for _ in range(5):
                await asyncio.sleep(0)
            running.remove(self.name)

        async def begin(self) -> None:
            await self._call()

        async def before_save(self, session: Any, step: int) -> None:
            await self._call()

        async def after_save(self, session: Any, step: int) -> None:
            await self._call()

        async def end(self, session: Any, step: int) -> None:
            await self._call()

    class Plain:
        def before_save(self, session: Any, step: int) -> None:
            nonlocal most
            most = max(most, len(running) + 1)

        after_save = before_save

    async with saver_on(SlowStore()) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(
                saver, weights(), save_steps=every, listeners=[Watched(names[0]), Plain(), Watched(names[1])]
            )
            for saver, names, every in ((one, "AB", 1), (other, "CD", 2))
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            await advance(session, 6)
    assert most == 1
    assert running == []


@pytest.mark.asyncio
async def test_the_sequence_of_calls_does_not_depend_on_the_speed_of_the_disk() -> None:
    logs: list[Log] = []
    for held in (None, "write", "commit", "add"):
        log: Log = []
        async with (
            two_hooks(log=log, save_steps=2) as (stores, hooks),
            MonitoredTrainingSession(hooks=hooks) as session,
        ):
            gates = [] if held is None else [store.hold(held) for store in stores]
            opener = asyncio.create_task(_open_when_reached(gates))
            await advance(session, 5)
            await soon(opener)
        logs.append(log)
    assert len(logs[0]) == 4 * (1 + 2 + 2 + 2 + 1)
    assert all(log == logs[0] for log in logs)


async def _open_when_reached(gates: list[Any]) -> None:
    for gate in gates:
        await gate.reached()
        for _ in range(20):
            await asyncio.sleep(0)
        gate.open()


# -- what a checkpoint holds -----------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_before_save_changes_is_in_that_checkpoint(tmp_path: Path) -> None:
    state = weights()

    class Average(CheckpointSaverListener):
        async def before_save(self, session: Any, step: int) -> None:
            state["model"]["w"][:] = step + 0.5
            state["model"]["note"] = f"averaged at {step}"

    hook = CheckpointSaverHook(tmp_path, state, save_steps=2, listeners=[Average()], initial_save="never")
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 4)
    async with Saver(tmp_path) as saver:
        for step in (2, 4):
            restored = await saver.restore(step)
            assert np.array_equal(restored.state["model"]["w"], np.full(4, step + 0.5))
            assert restored.state["model"]["note"] == f"averaged at {step}"


@pytest.mark.asyncio
@pytest.mark.parametrize("plain_step", [True, False])
async def test_a_callable_state_is_evaluated_after_before_save_in_the_thread_of_the_last_step(
    tmp_path: Path, plain_step: bool
) -> None:
    log: list[tuple[str, threading.Thread]] = []

    class Listener(CheckpointSaverListener):
        async def before_save(self, session: Any, step: int) -> None:
            log.append(("before_save", threading.current_thread()))

    def state() -> Any:
        log.append(("state", threading.current_thread()))
        return weights()

    def train() -> None:
        log.append(("step", threading.current_thread()))

    async def train_on_the_loop() -> None:
        train()

    hook = CheckpointSaverHook(tmp_path, state, save_steps=1, listeners=[Listener()], initial_save="never")
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await soon(session.run(train if plain_step else train_on_the_loop))
    assert [what for what, _ in log] == ["step", "before_save", "state"]
    assert log[0][1] is log[2][1]
    assert (log[0][1] is threading.current_thread()) is not plain_step


@pytest.mark.asyncio
async def test_later_steps_do_not_reach_into_a_checkpoint_that_is_still_being_written() -> None:
    store = SlowStore()
    state = weights()
    async with saver_on(store) as saver:
        hook = CheckpointSaverHook(saver, state, save_steps=2, initial_save="never")
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            gate = store.hold("write", 2)
            await advance(session, 2)
            await soon(gate.reached())
            state["model"]["w"][:] = 9
            await advance(session, 1)
            gate.open()
            await soon(session.drain())
        restored = await saver.restore(2)
    assert np.array_equal(restored.state["model"]["w"], np.zeros(4))


@pytest.mark.asyncio
async def test_the_phases_of_one_hook_follow_the_grammar_and_steps_grow(tmp_path: Path) -> None:
    listener = RecordingListener("A", log_exits=True)
    hook = CheckpointSaverHook(tmp_path, weights(), save_steps=3, listeners=[listener])
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await advance(session, 7)
    expected: list[tuple[str, int | None]] = [("begin", None)]
    for step in (0, 3, 6, 7):
        expected += [("before_save", step), ("after_save", step)]
    expected.append(("end", 7))
    assert [(phase, step) for _, phase, step in listener.log if not phase.startswith("/")] == expected
    # entered and left one after the other, never nested
    assert [phase for _, phase, _ in listener.log][1::2] == [f"/{phase}" for phase, _ in expected]
