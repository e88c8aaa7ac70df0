"""Who writes a file that is still being copied, and when it is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from async_ckpt.state import arrivals
from async_ckpt.state.arrivals import Arrivals, ArrivingImage
from async_ckpt.state.copying import CHUNK


class Watched(threading.Event):
    """Tells when somebody begins to wait, and counts how often somebody is woken."""

    woken = 0

    def __init__(self) -> None:
        super().__init__()
        made.put(self)

    def set(self) -> None:
        Watched.woken += not self.is_set()
        super().set()


class Made:
    """The events, in the order in which they were made."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[Watched] = []

    def put(self, event: Watched) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_until(self, many: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._events) >= many, timeout=60)


made = Made()


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    global made  # noqa: PLW0603 - the events are made by code that knows of no test
    made = Made()
    Watched.woken = 0
    monkeypatch.setattr(arrivals, "Event", Watched)


def in_thread(call: Callable[[], object]) -> Callable[[], object]:
    """Start it, and give what waits for its result."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()

    def result() -> object:
        thread.join(60)
        return found[0]

    return result


def test_nobody_is_woken_before_all_it_waits_for_is_there() -> None:
    found = Arrivals([3 * CHUNK, CHUNK])
    first = in_thread(lambda: found.wait(0, 0, 2 * CHUNK))
    everything = in_thread(found.wait_for_all)
    made.wait_until(2)
    found.arrived(1, 0)
    found.arrived(0, 2 * CHUNK)
    found.arrived(0, 0)
    assert Watched.woken == 0
    found.arrived(0, CHUNK)
    assert first() is True
    assert Watched.woken <= 1  # none where it was all there before the thread looked
    found.end()
    assert everything() is True


def test_the_end_lets_go_who_waits_for_what_will_not_come() -> None:
    found = Arrivals([3 * CHUNK, CHUNK])
    waiting = [in_thread(lambda: found.wait(0, 0, CHUNK)), in_thread(lambda: found.wait(1, 0, CHUNK))]
    everything = in_thread(found.wait_for_all)
    made.wait_until(3)
    found.arrived(1, 0)
    found.end()
    assert [result() for result in waiting] == [False, True]
    assert everything() is False


class Late(Arrivals):
    """Something happens just after somebody has looked for the first time, and has not found all."""

    def __init__(self, sizes: list[int], then: Callable[[Arrivals], None]) -> None:
        super().__init__(sizes)
        self._then: Callable[[Arrivals], None] | None = then

    def _has(self, file: int, wanted: Any) -> bool:
        found, then, self._then = super()._has(file, wanted), self._then, None
        if then is not None:
            then(self)
        return found


def test_what_comes_while_somebody_looks_is_not_missed() -> None:
    found = Late([2 * CHUNK], lambda arrivals: arrivals.arrived(0, CHUNK))
    found.arrived(0, 0)
    assert in_thread(lambda: found.wait(0, 0, 2 * CHUNK))() is True


def test_the_end_while_somebody_looks_is_not_missed() -> None:
    found = Late([2 * CHUNK], lambda arrivals: arrivals.end())
    assert in_thread(lambda: found.wait(0, 0, 2 * CHUNK))() is False


def test_who_comes_late_does_not_wait() -> None:
    found = Arrivals([3 * CHUNK, 0])
    found.arrived(0, 0)
    found.arrived(0, 2 * CHUNK)
    assert found.wait(0, 0, CHUNK)
    assert found.wait(0, 2 * CHUNK, 3 * CHUNK)
    found.end()
    assert not found.wait(0, 0, CHUNK + 1)
    assert found.wait(1, 0, 0)
    assert not found.wait_for_all()
    found.arrived(0, CHUNK)
    assert found.wait_for_all()


def test_the_pieces_of_a_file_are_all_given() -> None:
    found = Arrivals([3 * CHUNK])
    found.end()
    image = ArrivingImage(memoryview(bytes(3 * CHUNK)), found, 0, CHUNK)
    assert [len(piece) for piece in image] == [CHUNK] * 3
