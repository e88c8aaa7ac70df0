"""Where memory lacks for what the session does itself, nobody waits for ever and every end is called once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, SaveError, Saver, events
from async_ckpt.core.machine import Machine
from async_ckpt.runtime.callbacks import Callbacks
from async_ckpt.runtime.lane import _Call
from async_ckpt.session import lifetime
from async_ckpt.session.host import SessionHost
from async_ckpt.testing import RecordingListener, SimLeak, run_sim
from tests.session.support import SlowStore, weights


class Lacking:
    """Lets memory lack at chosen calls of a function, counted from 1."""

    def __init__(
        self, patched: pytest.MonkeyPatch, owner: Any, name: str, at: Collection[int] = (1,)
    ) -> None:
        self.calls, call = 0, getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls in at:
                raise MemoryError
            return call(*args, **kwargs)

        patched.setattr(owner, name, counted)


class Life:
    """One life of a session on a simulated loop, where whatever waits for ever is an error."""

    def __init__(self) -> None:
        self.store = SlowStore()
        self.listeners = [RecordingListener("A"), RecordingListener("B")]
        self.told: list[events.Event] = []

    def live(self) -> bool:
        """Whether it went without a MemoryError; raises what is none, and where somebody waits for ever."""
        try:
            run_sim(self._live)
        except MemoryError:
            return False
        except (SaveError, SimLeak) as error:
            # What nobody asked for is told to the loop.
            if not isinstance(error.__cause__, MemoryError):
                raise
            return False
        return True

    async def _live(self) -> None:
        async with Saver(self.store) as saver:
            hook = CheckpointSaverHook(saver, weights(), save_steps=2, listeners=self.listeners)
            session = MonitoredTrainingSession(hooks=[hook], grace_secs=1e6)
            session.subscribe(self.told.append)
            async with session:
                for _ in range(5):
                    await session.advance()

    def judge(self) -> None:
        """Every begin has had its one end, and a next writer comes in and saves."""
        for listener in self.listeners:
            assert listener.calls["end"] == listener.calls["begin"]
        assert 99 in run_sim(self._save_next)

    async def _save_next(self) -> list[int]:
        async with Saver(SlowStore(self.store.place)) as saver:
            await saver.save(weights(), 99)
            return await saver._store.steps()


def test_whichever_input_of_the_machine_lacks_memory_the_session_can_be_left() -> None:
    at = 0
    while True:
        at += 1
        life = Life()
        with pytest.MonkeyPatch.context() as patched:
            inputs = Lacking(patched, Machine, "receive", [at])
            unharmed = life.live()
        life.judge()
        if inputs.calls < at:
            assert unharmed
            break
    assert at > 15, "opening, boundaries, saves and closing are all inputs"


@pytest.mark.parametrize("at", range(1, 12))
def test_a_callback_that_could_not_be_started_is_started_again(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life()
    Lacking(monkeypatch, _Call, "__init__", [at, at + 1])
    assert life.live()
    life.judge()
    assert all(listener.calls["after_save"] == 4 for listener in life.listeners), "steps 0, 2, 4 and 5"


@pytest.mark.parametrize("at", range(1, 40, 3))
def test_whatever_event_lacks_memory_the_next_save_need_not_wait(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life()
    Lacking(monkeypatch, SessionHost, "emit", [at])
    life.live()
    life.judge()


def test_a_commit_that_could_not_be_told_is_reported_on_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life, emit = Life(), SessionHost.emit

    def emits(host: SessionHost, kind: type[events.Event], **fields: Any) -> None:
        if kind is events.SaveCommitted and fields["step"] == 2:
            raise MemoryError
        emit(host, kind, **fields)

    monkeypatch.setattr(SessionHost, "emit", emits)
    assert not life.live()
    assert not [event for event in life.told if isinstance(event, events.SaveFailed | events.SaveUnknown)]
    assert all(("A", "after_save", 2) in listener.log for listener in life.listeners[:1])
    life.judge()


@pytest.mark.parametrize("lacking", [[1], [1, 2]])
def test_a_way_out_that_could_not_be_begun_is_begun_again(
    lacking: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life()
    Lacking(monkeypatch, lifetime, "leave", lacking)
    assert life.live()
    life.judge()


class Sticky(list[Any]):
    """A list that lacks memory whenever it gets shorter, at the first try."""

    lacked = False

    def pop(self, *at: Any) -> Any:
        self.lacked = not self.lacked
        if self.lacked:
            raise MemoryError
        return super().pop(*at)


def test_who_was_called_is_not_called_again_because_a_list_could_not_get_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life, made = Life(), Callbacks.__init__

    def make(callbacks: Callbacks, *args: Any, **kwargs: Any) -> None:
        made(callbacks, *args, **kwargs)
        callbacks._begun = Sticky(callbacks._begun)

    monkeypatch.setattr(Callbacks, "__init__", make)
    assert life.live()
    life.judge()


@pytest.mark.parametrize("name", ["wait", "shield"])
def test_whichever_wait_lacks_memory_it_is_begun_again(name: str) -> None:
    at = 0
    while True:
        at += 1
        life = Life()
        with pytest.MonkeyPatch.context() as patched:
            waits = Lacking(patched, asyncio, name, [at, at + 1])
            assert life.live()
        life.judge()
        if waits.calls < at:
            break
    assert at > 3
