"""Stop votes: what is one, who decides, and when the session stops."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    CheckpointSaverListener,
    ListenerError,
    MonitoredTrainingSession,
    Stop,
    Vote,
    all_of,
    any_of,
    at_least,
)
from async_ckpt.events import StopDecided, StopVoted
from async_ckpt.testing import RecordingListener
from tests.session.support import SlowStore, advance, events_of, saver_on, soon, training, until, weights


class Returns(CheckpointSaverListener):
    """Returns ``value`` from every ``after_save``."""

    def __init__(self, value: Any, name: str = "returns") -> None:
        self.value = value
        self.name = name

    async def after_save(self, session: Any, step: int) -> Any:
        return self.value


class PlainReturns:
    """The same as a plain method."""

    name = "returns"

    def __init__(self, value: Any) -> None:
        self.value = value

    def after_save(self, session: Any, step: int) -> Any:
        return self.value


async def settled(session: MonitoredTrainingSession, steps: int) -> None:
    """Steps after each of which everything that is in flight ends."""
    for _ in range(steps):
        await advance(session, 1)
        await soon(session.drain())


async def stop_step(session: MonitoredTrainingSession, most: int = 20) -> int:
    """Train until the session stops, every round ending between two steps; the step at which it did."""
    while not session.should_stop():
        assert session.global_step < most, "the session did not stop"
        await settled(session, 1)
    return session.global_step


# -- what is a vote --------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("listener", [Returns, PlainReturns])
@pytest.mark.parametrize(
    "value",
    [True, 1, "yes", [0], np.bool_(True), np.float64(0.5), np.array([True]), object(), Stop("")],
    ids=repr,
)
async def test_any_truthy_return_is_a_vote(listener: Any, value: Any) -> None:
    async with training(SlowStore(), save_steps=1, listeners=[listener(value)]) as session:
        await settled(session, 1)
        assert session.votes == (Vote("returns", 1),)


@pytest.mark.asyncio
@pytest.mark.parametrize("listener", [Returns, PlainReturns])
@pytest.mark.parametrize("value", [None, False, 0, "", [], np.bool_(False), np.array([0.0])], ids=repr)
async def test_a_falsy_return_is_no_vote(listener: Any, value: Any) -> None:
    async with training(SlowStore(), save_steps=1, listeners=[listener(value)]) as session:
        await settled(session, 2)
        assert session.votes == ()
        assert not session.should_stop()


class _Judge:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __bool__(self) -> bool:
        raise self.error


@pytest.mark.asyncio
@pytest.mark.parametrize("listener", [Returns, PlainReturns])
@pytest.mark.parametrize(
    "value", [_Judge(RuntimeError("no truth")), _Judge(StopIteration()), np.array([True, False])], ids=repr
)
async def test_truth_that_raises_is_the_callbacks_error_and_the_others_are_still_asked(
    listener: Any, value: Any
) -> None:
    store = SlowStore()
    async with training(
        store,
        listeners=[listener(value), Returns(True, "other")],
        session_options={"final_save": "never"},
    ) as session:
        await settled(session, 2)
        assert session.votes == (Vote("other", 2),)
        assert store.done[0] == ("commit", 2)
        with pytest.raises(ListenerError) as caught:
            await session.advance()
        (failure,) = caught.value.errors
        assert (failure.phase, failure.step) == ("after_save", 2)
        assert caught.value.__cause__ is failure.exception


@pytest.mark.asyncio
async def test_stop_carries_its_reason_into_the_vote_the_event_and_the_stop_reason() -> None:
    listener = Returns(Stop("accuracy 0.98"))
    async with training(SlowStore(), listeners=[listener]) as session:
        voted, decided = events_of(session, StopVoted), events_of(session, StopDecided)
        assert await stop_step(session) == 3
    assert session.votes == (Vote("returns", 2, "accuracy 0.98"),)
    assert [(e.listener, e.step, e.reason) for e in voted][:1] == [("returns", 2, "accuracy 0.98")]
    assert len(decided) == 1
    assert session.stop_reason is not None
    assert "accuracy 0.98" in session.stop_reason
    assert "returns" in session.stop_reason
    assert decided[0].reason == session.stop_reason


# -- the rules -------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("rule", "stops_at"),
    [(any_of, 2), (at_least(1), 2), (at_least(2), 4), (at_least(3), 6), (all_of, 6), (at_least(4), None)],
    ids=str,
)
async def test_the_rule_decides_and_votes_stick(rule: Any, stops_at: int | None) -> None:
    """A votes once at 2, B once at 4, C once at 6, none of them again: nothing is ever reset."""
    listeners = [RecordingListener(name, vote_at=(step,)) for name, step in (("A", 2), ("B", 4), ("C", 6))]
    # Those without an `after_save` of their own have no voice and are not waited for.
    silent = CheckpointSaverListener()
    async with training(SlowStore(), listeners=[silent, *listeners], votes=rule) as session:
        decided = events_of(session, StopDecided)
        while not session.should_stop() and session.global_step < 8:
            await settled(session, 1)
        # known behind the save, true at the next boundary
        assert session.global_step == (8 if stops_at is None else stops_at + 1)
        assert session.should_stop() is (stops_at is not None)
        assert [event.step for event in decided] == ([] if stops_at is None else [stops_at])


@pytest.mark.asyncio
async def test_all_of_nobody_never_stops() -> None:
    async with training(SlowStore(), listeners=[CheckpointSaverListener()], votes=all_of) as session:
        await settled(session, 4)
        assert not session.should_stop()


@pytest.mark.asyncio
async def test_all_listeners_are_asked_however_many_have_voted() -> None:
    listeners = [RecordingListener(name, vote_at=(2, 4)) for name in "ABC"]
    async with training(SlowStore(), listeners=listeners) as session:
        await settled(session, 2)
        await advance(session, 1)
    assert [listener.calls["after_save"] for listener in listeners] == [2, 2, 2]
    assert session.votes == tuple(Vote(name, 2) for name in "ABC")


@pytest.mark.asyncio
async def test_the_tally_lists_registrations_that_ever_voted_each_once_in_the_order_of_their_votes() -> None:
    listeners = [RecordingListener("A", vote_at=(4, 6)), RecordingListener("B", vote_at=(2, 4))]
    async with training(SlowStore(), listeners=listeners, votes=at_least(3)) as session:
        await settled(session, 6)
        assert session.votes == (Vote("B", 2), Vote("A", 4))


@pytest.mark.asyncio
async def test_the_same_object_registered_twice_has_two_votes() -> None:
    listener = RecordingListener("A", vote_at=(2,))
    async with training(SlowStore(), listeners=[listener, listener], votes=all_of) as session:
        assert await stop_step(session) == 3
        assert len(session.votes) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("voter", [0, 1])
async def test_the_decision_of_any_hook_stops_the_session(voter: int) -> None:
    async with saver_on(SlowStore()) as one, saver_on(SlowStore()) as other:
        hooks = [
            CheckpointSaverHook(
                saver,
                weights(),
                save_steps=2,
                listeners=[RecordingListener(f"L{place}", vote_at=(2,) if place == voter else ())],
            )
            for place, saver in enumerate((one, other))
        ]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            assert await stop_step(session) == 3
            assert session.votes == (Vote(f"L{voter}", 2),)


@pytest.mark.parametrize("n", [0, -1, True, 1.5, None])
def test_at_least_needs_a_positive_number(n: Any) -> None:
    with pytest.raises(ValueError, match="positive"):
        at_least(n)


@pytest.mark.parametrize("votes", [2, "any_of", None, at_least], ids=repr)
def test_something_that_is_no_rule_is_refused_when_the_hook_is_built(votes: Any, tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="any_of, all_of or at_least"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, votes=votes)


# -- which saves count -----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_vote_at_the_initial_save_counts() -> None:
    listener = RecordingListener("A", vote_at=(0,))
    async with training(SlowStore(), save_steps=10, initial_save="fresh", listeners=[listener]) as session:
        await soon(session.drain())
        assert await stop_step(session) == 1
    assert session.votes == (Vote("A", 0),)


@pytest.mark.asyncio
async def test_a_vote_at_a_save_on_demand_counts() -> None:
    listener = RecordingListener("A", vote_at=(3,))
    async with training(SlowStore(), save_steps=10, listeners=[listener]) as session:
        await settled(session, 3)
        await soon(session.save())
        assert await stop_step(session) == 4
    assert session.votes == (Vote("A", 3),)


@pytest.mark.asyncio
async def test_a_vote_at_the_final_save_is_counted_and_shown() -> None:
    listener = RecordingListener("A", vote_at=(3,))
    async with training(SlowStore(), save_steps=10, listeners=[listener]) as session:
        decided = events_of(session, StopDecided)
        await advance(session, 3)
    assert session.votes == (Vote("A", 3),)
    assert [event.step for event in decided] == [3]


@pytest.mark.asyncio
async def test_votes_of_an_earlier_life_are_shown_and_do_not_stop_a_resumed_session() -> None:
    place = SlowStore().place
    async with training(
        SlowStore(place), listeners=[RecordingListener("A", vote_at=(2,), vote=Stop("good"))]
    ) as session:
        await stop_step(session)
    listeners = [RecordingListener("A"), RecordingListener("B", vote_at=(7,))]
    async with training(SlowStore(place), listeners=listeners, votes=at_least(2)) as session:
        assert session.global_step == 3
        assert session.votes == (Vote("A", 2, "good", earlier=True),)
        assert not session.should_stop()
        await settled(session, 6)
        # One vote of an earlier life and one of this: not two.
        assert not session.should_stop()
        assert [vote.earlier for vote in session.votes] == [True, False]


# -- honor_stop ------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_next_step_stops_at_the_first_boundary_after_the_decision_is_known() -> None:
    store, listener = SlowStore(), RecordingListener("A", vote_at=(2,))
    async with training(store, save_steps=2, when_busy="coalesce", listeners=[listener]) as session:
        gate = store.hold("write", 2)
        await advance(session, 5)
        gate.open()
        await soon(session.drain())
        # Known, and between two boundaries: not yet.
        assert not session.should_stop()
        await advance(session, 1)
        assert session.should_stop()
    assert session.global_step == 6


@pytest.mark.asyncio
@pytest.mark.loop_flavours
@pytest.mark.parametrize("slow_until", [2, 3, 4])
@pytest.mark.parametrize("blocking", [False, True])
async def test_next_save_stops_at_the_same_step_whatever_the_disk_does(
    slow_until: int, blocking: bool
) -> None:
    """The vote of the save at 2 stops at 4, whose save is still taken, be it known at 2, 3 or 4."""
    store, listener = SlowStore(), RecordingListener("A", vote_at=(2,))
    async with training(
        store, save_steps=2, listeners=[listener], honor_stop="next_save", blocking=blocking
    ) as session:
        gate = store.hold("write", 2)
        if blocking:
            gate.open()
        while not session.should_stop():
            assert session.global_step < 10
            step = asyncio.create_task(session.advance())
            if session.global_step + 1 == slow_until == 4 and not blocking:
                await until(lambda: session._scheduler.machine.held is not None)
                gate.open()
            await soon(step)
            if session.global_step == slow_until:
                gate.open()
                await soon(session.drain())
    assert session.global_step == 4
    assert [step for what, step in store.done if what == "commit"] == [2, 4]


@pytest.mark.asyncio
async def test_next_save_counts_a_vote_at_a_save_on_demand_from_that_save() -> None:
    listener = RecordingListener("A", vote_at=(3,))
    async with training(SlowStore(), save_steps=2, listeners=[listener], honor_stop="next_save") as session:
        await settled(session, 3)
        await soon(session.save())
        assert await stop_step(session) == 4


@pytest.mark.asyncio
async def test_next_save_after_a_vote_at_the_initial_save_stops_at_the_first_grid_step() -> None:
    listener = RecordingListener("A", vote_at=(0,))
    async with training(
        SlowStore(), save_steps=3, listeners=[listener], honor_stop="next_save", initial_save="fresh"
    ) as session:
        assert await stop_step(session) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"save_secs": 1},
        {"save_when": bool},
        {"save_steps": 1, "when_busy": "skip"},
        {"save_steps": 1, "when_busy": "coalesce"},
    ],
    ids=str,
)
def test_next_save_needs_a_grid_and_wait(options: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="next_save"):
        CheckpointSaverHook(tmp_path, weights(), honor_stop="next_save", **options)


def test_an_unknown_honor_stop_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="honor_stop"):
        CheckpointSaverHook(tmp_path, weights(), save_steps=1, honor_stop="now")  # type: ignore[arg-type]
