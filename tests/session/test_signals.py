"""``handle_signals``: the first is a stop request, the second cancels, and the old handlers come back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import pytest

from async_ckpt import MonitoredTrainingSession, SessionRunHook
from async_ckpt.events import Event, SignalReceived
from async_ckpt.testing import Gate, RecordingListener
from tests.session.disk import Weights, hang_guard, saved_values, saver_hook

pytestmark = pytest.mark.loop_flavours

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def handlers() -> Generator[None]:
    """A test that fails must not leave the whole run with foreign handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def until_stop(session: MonitoredTrainingSession) -> None:
    while not session.should_stop():
        await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
async def test_the_first_signal_is_a_stop_request_and_a_clean_exit_follows(
    tmp_path: Path, number: signal.Signals
) -> None:
    weights, events = Weights(), []  # type: ignore[var-annotated]
    hook = saver_hook(tmp_path, weights, initial_save="never")
    async with hang_guard(), MonitoredTrainingSession(hooks=[hook], handle_signals=(number,)) as session:
        session.subscribe(events.append)
        await session.run(weights.train)
        os.kill(os.getpid(), number)
        await until_stop(session)
        assert session.stop_reason == f"signal {number.name}"
    assert await saved_values(tmp_path) == {1: 1}
    received = [event for event in events if isinstance(event, SignalReceived)]
    assert [(event.signal, event.count) for event in received] == [(number.name, 1)]


@pytest.mark.asyncio
async def test_inside_a_step_the_stop_is_known_at_its_boundary() -> None:
    seen: list[bool] = []
    events: list[Event] = []

    async def step() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while not any(isinstance(event, SignalReceived) for event in events):
            await asyncio.sleep(0)
        seen.append(session.should_stop())

    async with hang_guard(), MonitoredTrainingSession(handle_signals=[signal.SIGTERM]) as session:
        session.subscribe(events.append)
        await session.run(step)
        assert (seen, session.should_stop()) == ([False], True)


@pytest.mark.asyncio
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_whichever_it_is_cancels_the_entering_task(
    tmp_path: Path, second: signal.Signals
) -> None:
    gate, listener = Gate(), RecordingListener("l")
    sessions: list[MonitoredTrainingSession] = []

    async def life() -> None:
        session = MonitoredTrainingSession(
            hooks=[saver_hook(tmp_path, Weights(), listeners=[listener])],
            handle_signals=(signal.SIGTERM, signal.SIGINT),
        )
        sessions.append(session)
        async with session:
            await session.run(gate)

    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        events: list[Event] = []
        sessions[0].subscribe(events.append)
        os.kill(os.getpid(), signal.SIGTERM)
        while not events or not isinstance(events[0], SignalReceived):
            await asyncio.sleep(0)
        assert not living.done()
        os.kill(os.getpid(), second)
        await asyncio.wait([living])
        assert living.cancelled()
    assert [phase for _, phase, _ in listener.log] == ["begin", "before_save", "after_save", "end"]


@pytest.mark.asyncio
async def test_the_second_signal_cancels_the_task_that_entered_and_no_other() -> None:
    gate = Gate()
    async with hang_guard():
        with pytest.raises(asyncio.CancelledError):
            async with MonitoredTrainingSession(handle_signals=(signal.SIGTERM,)) as session:
                events: list[Event] = []
                session.subscribe(events.append)
                running = asyncio.create_task(session.run(gate))
                await gate.reached()
                os.kill(os.getpid(), signal.SIGTERM)
                while not events:
                    await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGTERM)
                # The exit lets the step of the other task come to its boundary.
                asyncio.get_running_loop().call_soon(gate.open)
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        await running
        assert session.global_step == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("leaves", ["cleanly", "with an error", "entry fails", "aclose"])
async def test_previous_handlers_come_back_however_the_session_is_left(leaves: str) -> None:
    class Fails(SessionRunHook):
        async def begin(self) -> None:
            if leaves == "entry fails":
                raise LookupError

    def mine(number: int, frame: Any) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    session = MonitoredTrainingSession(hooks=[Fails()], handle_signals=tuple(before))
    try:
        async with session:
            for number, handler in before.items():
                assert signal.getsignal(number) is not handler
            if leaves == "with an error":
                raise LookupError
            if leaves == "aclose":
                await session.aclose()
                assert signal.getsignal(signal.SIGTERM) is mine
    except LookupError:
        pass
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.asyncio
@pytest.mark.parametrize("signalled_inside", [True, False])
async def test_handlers_of_the_loop_are_silent_inside_and_come_back(
    request: pytest.FixtureRequest, signalled_inside: bool
) -> None:
    loop, calls = asyncio.get_running_loop(), list[str]()
    if signalled_inside and not hasattr(loop, "_signal_handlers"):
        request.applymarker(
            pytest.mark.xfail(strict=True, reason="uvloop hides its handlers: they fire beside ours")
        )
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "the loop's")
    try:
        async with hang_guard(), MonitoredTrainingSession(handle_signals=(signal.SIGUSR1,)) as session:
            if signalled_inside:
                os.kill(os.getpid(), signal.SIGUSR1)
                await until_stop(session)
                for _ in range(10):
                    await asyncio.sleep(0)
        assert calls == []
        async with hang_guard():
            os.kill(os.getpid(), signal.SIGUSR1)
            while not calls:
                await asyncio.sleep(0)
        assert calls == ["the loop's"]
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.asyncio
async def test_signals_during_the_exit_are_still_ours_and_the_second_does_not_cut_it_short(
    tmp_path: Path,
) -> None:
    gate = Gate()
    log: list[tuple[str, str, int | None]] = []
    listeners = [RecordingListener("a", log, gates={"end": gate}), RecordingListener("b", log)]
    events: list[Event] = []

    async def life() -> None:
        hook = saver_hook(tmp_path, Weights(), listeners=listeners)
        async with MonitoredTrainingSession(hooks=[hook], handle_signals=(signal.SIGTERM,)) as session:
            session.subscribe(events.append)

    async with hang_guard():
        living = asyncio.create_task(life())
        await gate.reached()
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
            while sum(isinstance(event, SignalReceived) for event in events) < count:
                await asyncio.sleep(0)
        gate.open()
        await asyncio.wait([living])
        assert living.cancelled()
    assert [name for name, phase, _ in log if phase == "end"] == ["a", "b"]


@pytest.mark.asyncio
async def test_without_handle_signals_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with MonitoredTrainingSession():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.asyncio
async def test_a_signal_that_cannot_be_handled_is_told_on_entry_and_nothing_stays_taken() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="Invalid argument"):
        async with MonitoredTrainingSession(handle_signals=(signal.SIGTERM, signal.SIGKILL)):
            raise AssertionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_entering_says_so() -> None:
    caught: list[BaseException] = []

    async def life() -> None:
        async with MonitoredTrainingSession(handle_signals=(signal.SIGTERM,)):
            raise AssertionError

    def run() -> None:
        try:
            asyncio.run(life())
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


# -- a real process ----------------------------------------------------------------------------------


def start(directory: Path, what: str, loop: str) -> tuple[subprocess.Popen[str], IO[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.session.signalled_child", str(directory), what, loop],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, child.stdout


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_told_to_end_saves_and_ends_with_success(
    tmp_path: Path, number: signal.Signals, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    child, out = start(tmp_path, "trains", loop)
    with child:
        assert out.readline() == "training\n"
        child.send_signal(number)
        assert out.read() == f"{number.name}\nstopped by signal {number.name}\n"
        assert child.wait(30) == 0
    assert asyncio.run(saved_values(tmp_path)) == {1: 1}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_whose_step_hangs_is_cancelled_by_the_second_signal(tmp_path: Path, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    child, out = start(tmp_path, "hangs", loop)
    with child:
        assert out.readline() == "training\n"
        child.send_signal(signal.SIGTERM)
        assert out.readline() == "SIGTERM\n"
        child.send_signal(signal.SIGINT)
        assert out.read() == "SIGINT\ncancelled after signal SIGTERM\n"
        assert child.wait(30) == 75
