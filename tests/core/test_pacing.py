"""A bandwidth, whatever is asked for and when: never more than the rate, never less, and in fair turns."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.core.pacing import Pacer, Request


class Ask(NamedTuple):
    owner: str
    nbytes: int


class Wait(NamedTuple):
    secs: float


class Withdraw(NamedTuple):
    which: int


class UntilDue(NamedTuple):
    """Time goes on to the very instant at which the next one may go."""


class Granted(NamedTuple):
    at: float
    request: Request


Event = Ask | Wait | Withdraw | UntilDue

RATES = st.sampled_from([1.0, 777.5, 4096.0, 1e6, 3e9])


def events(rate: float, *, largest: float) -> st.SearchStrategy[list[Event]]:
    most = max(1, int(max(4096.0, rate / 10) * largest))
    return st.lists(
        st.one_of(
            st.builds(Ask, st.sampled_from("abc"), st.integers(0, most)),
            st.builds(Wait, st.floats(0, 3 * most / rate)),
            st.builds(Withdraw, st.integers(0, 60)),
            st.builds(UntilDue),
        ),
        max_size=60,
    )


class World:
    """Drives a pacer from time 1000 and remembers what happened."""

    def __init__(self, rate: float) -> None:
        self.pacer = Pacer(rate)
        self.now = 1000.0
        self.asked: list[Request] = []
        self.withdrawn: list[Request] = []
        self.granted: list[Granted] = []

    def play(self, script: list[Event]) -> None:
        for event in script:
            if isinstance(event, Ask):
                self.asked.append(self.pacer.ask(*event))
            elif isinstance(event, Wait):
                self.now += event.secs
            elif isinstance(event, Withdraw):
                self.withdraw(event.which)
            else:
                self.now = max(self.now, self.pacer.due() or -math.inf)
            self.grant()

    def withdraw(self, which: int) -> None:
        if which < len(self.asked):
            request = self.asked[which]
            self.pacer.withdraw(request)
            if not request.granted:
                self.withdrawn.append(request)

    def grant(self) -> None:
        self.granted += [Granted(self.now, request) for request in self.pacer.grant(self.now)]

    def finish(self) -> None:
        while (due := self.pacer.due()) is not None:
            self.now = max(self.now, due)
            self.grant()


@st.composite
def worlds(draw: st.DrawFn, largest: float = 1.0) -> World:
    rate = draw(RATES)
    world = World(rate)
    world.play(draw(events(rate, largest=largest)))
    return world


@given(worlds(largest=3.0))
def test_over_any_window_no_more_goes_than_the_rate_and_one_burst(world: World) -> None:
    world.finish()
    for first in range(len(world.granted)):
        moved, most = 0, 0
        for at, request in world.granted[first:]:
            moved += request.nbytes
            most = max(most, request.nbytes)
            window = at - world.granted[first].at
            allowed = world.pacer.rate * window + max(world.pacer.burst, most)
            # A float near 1000 cannot say at what time a byte goes better than this.
            assert moved <= allowed + 1 + world.pacer.rate * 1e-9


@given(worlds())
def test_requests_that_fit_the_burst_are_held_to_it(world: World) -> None:
    world.finish()
    moved = sum(request.nbytes for _, request in world.granted)
    window = world.granted[-1].at - world.granted[0].at if world.granted else 0.0
    assert moved <= world.pacer.rate * window + world.pacer.burst + 1 + world.pacer.rate * 1e-9


@given(worlds(largest=3.0))
def test_everybody_goes_exactly_once_unless_withdrawn(world: World) -> None:
    world.finish()
    gone = [id(request) for _, request in world.granted]
    assert len(gone) == len(set(gone))
    assert set(gone) == {id(r) for r in world.asked} - {id(r) for r in world.withdrawn}
    assert all(r.granted for _, r in world.granted)
    assert not any(r.granted for r in world.withdrawn)
    assert world.pacer.head is None


@given(worlds(largest=3.0))
def test_who_asked_first_goes_first_within_an_owner(world: World) -> None:
    world.finish()
    order = {id(request): number for number, request in enumerate(world.asked)}
    for owner in "abc":
        mine = [order[id(r)] for _, r in world.granted if r.owner == owner]
        assert mine == sorted(mine)


@given(RATES, st.lists(st.integers(1, 12), min_size=2, max_size=6), st.data())
def test_between_two_turns_of_an_owner_everybody_else_who_waits_has_one(
    rate: float, counts: list[int], data: st.DataObject
) -> None:
    world = World(rate)
    for owner, count in enumerate(counts):
        world.play([Ask(str(owner), data.draw(st.integers(1, 4096))) for _ in range(count)])
    left = {str(owner): count for owner, count in enumerate(counts)}
    already = len(world.granted)  # before the last owner had asked
    world.finish()
    for _, request in world.granted[:already]:
        left[str(request.owner)] -= 1
    turns: dict[str, int] = dict.fromkeys(left, 0)
    for _, request in world.granted[already:]:
        name = str(request.owner)
        turns[name] += 1
        assert all(turns[name] - turns[other] <= 1 for other in left if turns[other] < left[other])


@given(worlds(), st.integers(1, 4096))
def test_nobody_waits_longer_than_one_request_of_each_other_owner_and_its_own(world: World, own: int) -> None:
    pacer = world.pacer
    ahead = sum(
        max(r.nbytes for r in world.asked if r.owner == owner and not r.granted and r not in world.withdrawn)
        for owner in {r.owner for r in world.asked if not r.granted and r not in world.withdrawn}
    )
    begun = world.now
    request = pacer.ask("late", own)
    while not request.granted:
        world.now = max(world.now, pacer.due() or 0.0)
        world.grant()
    debt = pacer.burst  # at most what went in one burst before
    assert world.now - begun <= (ahead + own + debt + 1) / pacer.rate + 1e-9


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=30))
def test_while_somebody_waits_no_bandwidth_is_lost(sizes: list[int]) -> None:
    world = World(1e6)
    world.play([Ask("a", size) for size in sizes])
    world.finish()
    took = world.granted[-1].at - 1000.0
    assert took == pytest.approx(max(0.0, (sum(sizes) - world.pacer.burst) / 1e6), abs=1e-6)


def test_a_silence_of_any_length_is_worth_one_burst() -> None:
    pacer = Pacer(1e6)
    for _ in range(100):
        pacer.ask("a", 10_000)
    assert len(pacer.grant(0.0)) == 10
    assert len(pacer.grant(1e9)) == 10
    assert len(pacer.grant(1e9)) == 0


def test_a_large_file_does_not_hold_up_a_small_one() -> None:
    world = World(1e6)
    world.play([Ask("large", 100_000) for _ in range(1000)])
    world.play([Ask("small", 100_000)])
    world.finish()
    assert [r.owner for _, r in world.granted[:3]] == ["large", "large", "small"]


def test_a_request_larger_than_the_burst_goes_alone_and_is_paid_for_after() -> None:
    world = World(1e6)
    world.play([Ask("a", 1_000_000), Ask("b", 100_000), UntilDue()])
    assert [(r.owner, at) for at, r in world.granted] == [("a", 1000.0), ("b", 1001.0)]


def test_the_next_in_turn_is_not_overtaken_by_one_that_would_fit() -> None:
    world = World(1e6)
    world.play([Ask("a", 90_000), Ask("b", 100_000), Ask("c", 1_000)])
    assert [r.owner for _, r in world.granted] == ["a"]
    world.finish()
    assert [r.owner for _, r in world.granted] == ["a", "b", "c"]


def test_withdrawing_hands_the_turn_to_the_next_and_costs_nothing() -> None:
    pacer = Pacer(1e6)
    first, second, third = pacer.ask("a", 100_000), pacer.ask("b", 100_000), pacer.ask("a", 1)
    assert pacer.grant(0.0) == [first]
    pacer.withdraw(second)
    pacer.withdraw(second)
    pacer.withdraw(first)
    assert pacer.head is third
    assert pacer.grant(0.001) == [third]
    assert pacer.due() is None


def test_an_owner_who_withdraws_one_of_several_keeps_its_turn_for_the_rest() -> None:
    pacer = Pacer(1e6)
    first, second, third = pacer.ask("a", 100_000), pacer.ask("a", 100_000), pacer.ask("b", 1)
    pacer.withdraw(first)
    assert pacer.head is second
    assert pacer.grant(0.0) == [second]
    assert pacer.head is third


@pytest.mark.parametrize(
    ("rate", "default", "piece"),
    [
        (1e9, 32 << 20, 32 << 20),
        (1e8, 32 << 20, 9_998_336),
        (50_000, 32 << 20, 4096),
        (1, 32 << 20, 4096),
        (1e6, 1000, 1000),
    ],
)
def test_a_piece_is_whole_pages_that_fit_a_burst_and_no_more_than_asked(
    rate: float, default: int, piece: int
) -> None:
    pacer = Pacer(rate)
    assert pacer.piece(default) == piece
    assert piece <= pacer.burst
    assert pacer.burst == max(4096.0, rate / 10)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_a_rate_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="bytes per second"):
        Pacer(rate)


def test_a_negative_number_of_bytes_is_refused() -> None:
    pacer = Pacer(1.0)
    with pytest.raises(ValueError, match="-1 bytes"):
        pacer.ask("a", -1)
    assert pacer.head is None
