"""Real threads held to a bandwidth, in a time of their own that only goes on when all of them wait."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest

from async_ckpt.core.pacing import BURST_SECS
from async_ckpt.system.threads import Outcome, capture
from async_ckpt.system.throttle import LOOK_SECS, Throttle

MB = 1_000_000


def never() -> bool:
    return False


class Nudge:
    def __init__(self, world: World) -> None:
        self.world = world
        self.is_set = False
        self.until = -math.inf

    @property
    def holds(self) -> bool:
        return not self.is_set and self.until > self.world.now

    def set(self) -> None:
        with self.world.changed:
            self.is_set = True
            self.world.changed.notify_all()

    def clear(self) -> None:
        self.is_set = False

    def wait(self, timeout: float) -> None:
        with self.world.changed:
            self.until = self.world.now + timeout
            self.world.waits.append(timeout)
            self.world.changed.notify_all()
            self.world.changed.wait_for(lambda: not self.holds)
            self.until = -math.inf


class Taken(NamedTuple):
    at: float
    owner: str
    nbytes: int


class World:
    """Starts threads one after the other, and moves time on whenever every one of them waits."""

    def __init__(self, rate: float | None, *, late: float = 0.0) -> None:
        self.now = 0.0
        self.late = late
        self.changed = threading.Condition()
        self.nudges: list[Nudge] = []
        self.waits: list[float] = []
        self.taken: list[Taken] = []
        self.outcomes: dict[int, Outcome[None]] = {}
        self.throttle = Throttle(rate, self, nudge=self.nudge)

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        raise AssertionError

    def nudge(self) -> Nudge:
        with self.changed:
            self.nudges.append(Nudge(self))
            return self.nudges[-1]

    def take(self, owner: str, nbytes: int, stopped: Callable[[], bool] = never) -> bool:
        got = self.throttle.take(owner, nbytes, stopped)
        if got:
            with self.changed:
                self.taken.append(Taken(self.now, owner, nbytes))
        return got

    def run(self, *bodies: Callable[[], object]) -> None:
        threads = []
        for number, body in enumerate(bodies):
            threads.append(threading.Thread(target=self._body, args=(number, body)))
            threads[-1].start()
            self._settle(number + 1)
        while len(self.outcomes) < len(bodies):
            with self.changed:
                self.now = min(nudge.until for nudge in self.nudges if nudge.holds) + self.late
                self.changed.notify_all()
            self._settle(len(bodies))
        for thread in threads:
            thread.join()
        for outcome in self.outcomes.values():
            outcome.unwrap()

    def _body(self, number: int, body: Callable[[], object]) -> None:
        outcome = capture(body)
        with self.changed:
            self.outcomes[number] = Outcome(error=outcome.error)
            self.changed.notify_all()

    def _settle(self, started: int) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: sum(nudge.holds for nudge in self.nudges) + len(self.outcomes) == started
            )


def writes(world: World, owner: str, *, pieces: int, nbytes: int) -> Callable[[], None]:
    def body() -> None:
        for _ in range(pieces):
            assert world.take(owner, nbytes)

    return body


def test_several_threads_together_keep_to_the_rate_and_lose_none_of_it() -> None:
    world = World(10 * MB)
    world.run(*(writes(world, f"saver-{n % 2}", pieces=20, nbytes=MB) for n in range(4)))
    assert sum(taken.nbytes for taken in world.taken) == 80 * MB
    assert world.taken[-1].at == pytest.approx(80 / 10 - BURST_SECS)
    for number, first in enumerate(world.taken):
        moved = 0
        for taken in world.taken[number:]:
            moved += taken.nbytes
            assert moved <= 10 * MB * (taken.at - first.at) + BURST_SECS * 10 * MB + 1


def test_a_small_file_passes_a_large_one_of_another_owner() -> None:
    world = World(10 * MB)
    world.run(
        writes(world, "large", pieces=200, nbytes=MB),
        writes(world, "large", pieces=200, nbytes=MB),
        writes(world, "small", pieces=1, nbytes=MB),
    )
    small = next(taken.at for taken in world.taken if taken.owner == "small")
    assert small == pytest.approx(0.2)


def test_two_owners_get_equal_shares_however_many_threads_each_has() -> None:
    world = World(10 * MB)
    world.run(
        *(writes(world, "many", pieces=10, nbytes=MB) for _ in range(4)),
        writes(world, "one", pieces=10, nbytes=MB),
    )
    while_both_wait = [taken.owner for taken in world.taken if 0.25 < taken.at < 1.95]
    assert abs(while_both_wait.count("many") - while_both_wait.count("one")) <= 1
    assert len(while_both_wait) == 17


def test_all_who_may_go_by_the_time_somebody_looks_go_then() -> None:
    world = World(1 * MB, late=0.02)
    world.take("first", 100_000)
    world.run(*(writes(world, owner, pieces=1, nbytes=1_000) for owner in "abc"))
    assert [taken.at for taken in world.taken] == pytest.approx([0.0, 0.021, 0.021, 0.021])


def test_who_waits_for_its_turn_sees_a_stop_within_fifty_milliseconds() -> None:
    world = World(1000.0)
    seen: list[float] = []

    def stopped() -> bool:
        seen.append(world.now)
        return world.now >= 3.0

    world.run(
        lambda: world.take("a", 100_000),
        lambda: world.take("b", 100_000),
        lambda: seen.append(-1.0) if world.take("c", 1, stopped) else None,
    )
    assert [taken.owner for taken in world.taken] == ["a", "b"]
    assert -1.0 not in seen
    assert seen[-1] <= 3.0 + LOOK_SECS
    assert max(later - earlier for earlier, later in pairwise(seen)) <= LOOK_SECS + 1e-9
    assert max(world.waits) <= LOOK_SECS == 0.05


def test_one_that_stops_hands_its_turn_on_at_once() -> None:
    world = World(1 * MB)
    world.take("first", 100_000)
    world.run(
        lambda: world.take("next", 100_000, lambda: world.now >= 0.05),
        lambda: world.take("last", 1_000),
    )
    assert [taken.owner for taken in world.taken] == ["first", "last"]
    assert world.taken[-1].at == pytest.approx(0.05)


def test_what_stopped_raises_leaves_and_the_turn_goes_on() -> None:
    world = World(1 * MB)
    world.take("first", 100_000)

    def refuse() -> bool:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        world.take("next", 100_000, refuse)
    world.run(lambda: world.take("last", 100_000))
    assert world.taken[-1].owner == "last"
    assert world.taken[-1].at == pytest.approx(0.1)


def test_one_that_is_stopped_already_takes_nothing_but_what_is_free() -> None:
    world = World(1 * MB)
    assert world.take("a", 100_000, lambda: True)
    assert not world.take("a", 100_000, lambda: True)
    assert not world.waits


def test_without_a_limit_nobody_waits_or_is_asked() -> None:
    world = World(None)
    for _ in range(1000):
        assert world.take("a", 1 << 40, lambda: pytest.fail("asked"))
    assert world.throttle.piece(12345) == 12345
    assert not world.nudges


def test_a_piece_is_a_tenth_of_a_second_in_whole_pages() -> None:
    throttle = Throttle(100 * MB)
    assert throttle.piece(32 << 20) == 10 * MB // 4096 * 4096
    assert throttle.piece(1 << 20) == 1 << 20


@pytest.mark.parametrize("rate", [0.0, -5.0, math.nan, math.inf])
def test_a_limit_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="bytes per second"):
        Throttle(rate)


def test_a_negative_number_of_bytes_is_refused_and_holds_nobody_up() -> None:
    world = World(1 * MB)
    with pytest.raises(ValueError, match="-1 bytes"):
        world.take("a", -1)
    assert world.take("b", 1)


def test_on_the_real_clock_what_is_free_goes_at_once() -> None:
    throttle = Throttle(1e12)
    assert all(throttle.take("a", 1 << 20, never) for _ in range(100))
