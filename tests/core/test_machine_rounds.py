"""Rounds: who is prepared when, what waits, and in which order saves are committed and reported."""

from __future__ import annotations

import pytest

from async_ckpt.core import protocol as p
from async_ckpt.core.machine import Machine
from async_ckpt.core.triggers import EverySecs, EverySteps, WhenAsked
from async_ckpt.core.votes import Vote, all_of


def opened(*specs: p.HookSpec, step: int = 0) -> Machine:
    machine = Machine()
    machine.receive(p.Opened(step, specs))
    return machine


def boundary(machine: Machine, step: int, hook: int = 0, *, now: float = 0.0) -> list[p.Command]:
    machine.receive(p.BoundaryOpened(step))
    return machine.receive(p.SaveOffered(hook, now=now))


def to_the_end(machine: Machine, hook: int = 0, votes: tuple[Vote, ...] = ()) -> list[p.Command]:
    said = machine.receive(p.Committed(hook))
    said += machine.receive(p.Reported(hook, votes))
    return said + machine.receive(p.Settled(hook))


def save(machine: Machine, step: int, votes: tuple[Vote, ...] = (), *, now: float = 0.0) -> list[p.Command]:
    """One whole save of hook 0 at ``step``, in the background."""
    said = boundary(machine, step, now=now)
    assert said[0] == p.Prepare(0, step)
    said += machine.receive(p.Prepared(0))
    said += machine.receive(p.BoundaryClosed(now))
    said += machine.receive(p.Written(0))
    return said + to_the_end(machine, votes=votes)


def test_a_save_runs_through_its_life_in_the_background() -> None:
    machine = opened(p.HookSpec(EverySteps(2)))
    assert boundary(machine, 1) == [p.Proceed(0, taken=False)]
    machine.receive(p.BoundaryClosed(0.0))
    assert boundary(machine, 2) == [p.Prepare(0, 2)]
    assert machine.receive(p.Prepared(0)) == [p.Proceed(0, taken=True)]
    assert machine.receive(p.BoundaryClosed(0.0)) == []
    assert machine.receive(p.Written(0)) == [p.Commit(0, 2)]
    assert machine.receive(p.Committed(0)) == [p.Report(0, 2)]
    assert machine.receive(p.Reported(0)) == [p.Settle(0, 2)]
    assert machine.receive(p.Settled(0)) == [p.EndRound(2)]
    assert machine.idle
    machine.receive(p.BoundaryOpened(2, kind="demand"))
    assert machine.receive(p.SaveOffered(0, now=0.0, asked=True)) == [p.Proceed(0, taken=False)]


def test_saves_of_a_round_are_committed_in_hook_order_whichever_is_written_first() -> None:
    machine = opened(p.HookSpec(EverySteps(1)), p.HookSpec(EverySteps(1)))
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    assert machine.receive(p.SaveOffered(1, now=0.0)) == [p.Prepare(1, 1)]
    machine.receive(p.Prepared(1))
    assert machine.receive(p.Written(1)) == []
    assert machine.receive(p.BoundaryClosed(0.0)) == []
    assert machine.receive(p.Written(0)) == [p.Commit(0, 1)]
    assert to_the_end(machine) == [p.Report(0, 1), p.Settle(0, 1), p.Commit(1, 1)]
    assert to_the_end(machine, 1)[-1] == p.EndRound(1)


def test_nothing_is_committed_before_every_hook_of_the_boundary_had_its_place() -> None:
    machine = opened(p.HookSpec(EverySteps(1)), p.HookSpec(EverySteps(1)))
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    assert machine.receive(p.Written(0)) == []
    assert machine.receive(p.SaveOffered(1, now=0.0)) == [p.Prepare(1, 1)]


def test_a_blocking_save_runs_through_at_its_place() -> None:
    machine = opened(p.HookSpec(EverySteps(1), blocking=True))
    boundary(machine, 1)
    assert machine.receive(p.Prepared(0)) == []
    assert machine.receive(p.Written(0)) == [p.Commit(0, 1)]
    assert to_the_end(machine) == [p.Report(0, 1), p.Settle(0, 1), p.Proceed(0, taken=True), p.EndRound(1)]


def test_a_blocking_save_whose_step_was_cancelled_completes_in_the_background() -> None:
    machine = opened(p.HookSpec(EverySteps(1), blocking=True))
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    machine.receive(p.BoundaryClosed(0.0))
    assert machine.receive(p.Written(0)) == [p.Commit(0, 1)]
    assert to_the_end(machine)[-1] == p.EndRound(1)


def test_a_blocking_save_whose_step_was_cancelled_still_goes_before_the_rest_of_its_round() -> None:
    machine = opened(p.HookSpec(EverySteps(1)), p.HookSpec(EverySteps(1), blocking=True))
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    machine.receive(p.SaveOffered(1, now=0.0))
    machine.receive(p.Prepared(1))
    machine.receive(p.Written(0))
    assert machine.receive(p.BoundaryClosed(0.0)) == []
    assert machine.receive(p.Written(1)) == [p.Commit(1, 1)]
    assert to_the_end(machine, 1) == [p.Report(1, 1), p.Settle(1, 1), p.Commit(0, 1)]


@pytest.mark.parametrize("failure", [p.WriteFailed(0), p.CommitFailed(0)], ids=["write", "commit"])
def test_a_failed_blocking_save_lets_the_boundary_go_on(failure: p.Input) -> None:
    machine = opened(p.HookSpec(EverySteps(1), blocking=True))
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    if isinstance(failure, p.CommitFailed):
        machine.receive(p.Written(0))
    assert p.Proceed(0, taken=False) in machine.receive(failure)


def in_flight(when_busy: str) -> Machine:
    """A machine with the save of step 1 being written and a boundary open at step 2."""
    machine = opened(p.HookSpec(EverySteps(1), when_busy=when_busy))  # type: ignore[arg-type]
    boundary(machine, 1)
    machine.receive(p.Prepared(0))
    machine.receive(p.BoundaryClosed(0.0))
    return machine


def test_wait_holds_the_step_until_the_round_is_over() -> None:
    machine = in_flight("wait")
    assert boundary(machine, 2) == []
    assert machine.held == 0
    machine.receive(p.Written(0))
    assert to_the_end(machine)[-2:] == [p.EndRound(1), p.Prepare(0, 2)]


def test_skip_drops_the_save_and_its_place_in_the_grid() -> None:
    machine = in_flight("skip")
    assert boundary(machine, 2) == [p.Skip(0, 2, "busy"), p.Proceed(0, taken=False)]
    machine.receive(p.BoundaryClosed(0.0))
    machine.receive(p.Written(0))
    to_the_end(machine)
    assert machine.due_step == 3


def test_coalesce_takes_the_remembered_save_at_the_first_free_boundary() -> None:
    machine = in_flight("coalesce")
    assert boundary(machine, 2) == [p.Proceed(0, taken=False)]
    machine.receive(p.BoundaryClosed(0.0))
    machine.receive(p.Written(0))
    to_the_end(machine)
    assert boundary(machine, 3) == [p.Prepare(0, 3)]
    machine.receive(p.Prepared(0))
    machine.receive(p.BoundaryClosed(0.0))
    assert machine.due_step == 4


def test_a_request_waits_whatever_the_policy_says_and_moves_no_grid() -> None:
    machine = in_flight("skip")
    machine.receive(p.BoundaryOpened(1, kind="demand"))
    assert machine.receive(p.SaveOffered(0, now=0.0, asked=True)) == []
    machine.receive(p.Written(0))
    assert to_the_end(machine)[-2:] == [p.EndRound(1), p.Proceed(0, taken=False)]


def test_an_offer_withdrawn_leaves_no_trace() -> None:
    machine = in_flight("wait")
    boundary(machine, 2)
    assert machine.receive(p.OfferWithdrawn(0)) == []
    machine.receive(p.BoundaryClosed(0.0))
    machine.receive(p.Written(0))
    assert to_the_end(machine)[-1] == p.EndRound(1)


def test_a_durable_step_is_not_saved_again_on_request() -> None:
    machine = opened(p.HookSpec(EverySteps(5), durable=7), step=7)
    machine.receive(p.BoundaryOpened(7, kind="demand"))
    assert machine.receive(p.SaveOffered(0, now=0.0, asked=True)) == [p.Proceed(0, taken=False)]


def test_an_initial_save_is_taken_at_entry_even_where_the_step_is_durable() -> None:
    machine = opened(p.HookSpec(EverySteps(5), durable=7, initial=True), step=7)
    machine.receive(p.BoundaryOpened(7, kind="entry"))
    assert machine.receive(p.SaveOffered(0, now=0.0)) == [p.Prepare(0, 7)]


def test_a_failed_save_is_due_again_after_one_two_four_boundaries() -> None:
    machine = opened(p.HookSpec(EverySteps(100)))
    attempts = []
    for step in range(100, 120):
        if boundary(machine, step)[0] == p.Prepare(0, step):
            attempts.append(step)
            machine.receive(p.Prepared(0))
            machine.receive(p.BoundaryClosed(0.0))
            machine.receive(p.WriteFailed(0))
        else:
            machine.receive(p.BoundaryClosed(0.0))
    assert attempts == [100, 101, 103, 107, 115]


def test_a_retry_waits_no_longer_than_one_interval_and_keeps_the_grid() -> None:
    machine = opened(p.HookSpec(EverySteps(3)))
    attempts = []
    for step in range(1, 14):
        if boundary(machine, step)[0] == p.Prepare(0, step):
            attempts.append(step)
            machine.receive(p.PrepareFailed(0))
        machine.receive(p.BoundaryClosed(0.0))
    assert attempts == [3, 4, 6, 9, 12]


def test_seconds_count_from_the_moment_the_boundary_gave_control_back() -> None:
    machine = opened(p.HookSpec(EverySecs(10.0, last=0.0)))
    assert boundary(machine, 1, now=10.0) == [p.Prepare(0, 1)]
    machine.receive(p.Prepared(0))
    machine.receive(p.BoundaryClosed(25.0))
    machine.receive(p.Written(0))
    to_the_end(machine)
    assert boundary(machine, 2, now=34.9) == [p.Proceed(0, taken=False)]
    machine.receive(p.BoundaryClosed(34.9))
    assert boundary(machine, 3, now=35.0) == [p.Prepare(0, 3)]


def test_a_predicate_is_due_when_it_said_so() -> None:
    machine = opened(p.HookSpec(WhenAsked()))
    machine.receive(p.BoundaryOpened(1))
    assert machine.receive(p.SaveOffered(0, now=0.0, wanted=True)) == [p.Prepare(0, 1)]
    assert machine.due_step == float("-inf")


def test_a_vote_stops_at_once_by_default_and_only_once() -> None:
    machine = opened(p.HookSpec(EverySteps(1), voters=1))
    said = save(machine, 1, (Vote("A", 1, "good"),))
    assert p.DecideStop("A voted to stop at step 1: good") in said
    assert not any(isinstance(c, p.DecideStop) for c in save(machine, 2, (Vote("A", 2),)))


def test_next_save_stops_at_the_grid_step_after_the_vote_which_is_still_taken() -> None:
    machine = opened(p.HookSpec(EverySteps(2), honor_stop="next_save", voters=1))
    assert not any(isinstance(c, p.DecideStop) for c in save(machine, 2, (Vote("A", 2),)))
    assert boundary(machine, 3) == [p.Proceed(0, taken=False)]
    machine.receive(p.BoundaryClosed(0.0))
    said = boundary(machine, 4)
    assert said == [p.DecideStop("A voted to stop at step 2"), p.Prepare(0, 4)]


def test_votes_of_an_earlier_life_are_shown_and_decide_nothing() -> None:
    machine = opened(
        p.HookSpec(EverySteps(1), rule=all_of, voters=2, earlier_votes=(Vote("A", 3, earlier=True),)), step=3
    )
    assert not any(isinstance(c, p.DecideStop) for c in save(machine, 4, (Vote("B", 4),)))
    assert machine.votes() == (Vote("A", 3, earlier=True), Vote("B", 4))
    assert any(isinstance(c, p.DecideStop) for c in save(machine, 5, (Vote("A", 5),)))


def test_a_report_owed_is_asked_for_and_its_votes_count() -> None:
    machine = opened(p.HookSpec(EverySteps(5), durable=3, voters=1), step=3)
    assert machine.receive(p.ReportOwed(0, 3)) == [p.Report(0, 3)]
    said = machine.receive(p.Reported(0, (Vote("A", 3),)))
    assert said == [p.DecideStop("A voted to stop at step 3"), p.Settle(0, 3)]
    assert machine.receive(p.Settled(0)) == [p.Proceed(0, taken=True), p.EndRound(3)]


def test_due_tells_beforehand_what_a_boundary_would_ask() -> None:
    machine = opened(p.HookSpec(EverySteps(3)))
    assert not machine.due(0, step=2, now=0.0, wanted=False)
    assert machine.due(0, step=3, now=0.0, wanted=False)
    boundary(machine, 3)
    machine.receive(p.PrepareFailed(0))
    machine.receive(p.BoundaryClosed(0.0))
    assert machine.due(0, step=4, now=0.0, wanted=False)
    assert machine.due_step == float("-inf")
    assert opened().due_step == float("inf")


def test_what_is_due_next_is_known_ahead_by_step_and_by_time() -> None:
    never = float("inf")
    machine = opened(p.HookSpec(EverySteps(5)), p.HookSpec(EverySteps(3)))
    assert (machine.due_step, machine.due_time) == (3, never)
    machine = opened(p.HookSpec(EverySecs(20.0, last=5.0)), p.HookSpec(EverySecs(30.0, last=0.0)))
    assert (machine.due_step, machine.due_time) == (never, 25.0)
    machine = opened(p.HookSpec(EverySecs(20.0, last=5.0)), p.HookSpec(EverySteps(4)))
    assert (machine.due_step, machine.due_time) == (4, 25.0)
    assert opened(p.HookSpec(EverySteps(4)), p.HookSpec(WhenAsked())).due_step == -never


def test_a_remembered_save_has_to_be_looked_at_at_every_boundary() -> None:
    machine = in_flight("coalesce")
    boundary(machine, 2)
    machine.receive(p.BoundaryClosed(0.0))
    assert machine.due_step == float("-inf")


def test_a_stop_request_is_legal_in_every_phase_and_decides_once() -> None:
    machine = Machine()
    assert machine.receive(p.StopRequested("a")) == [p.DecideStop("a")]
    assert machine.receive(p.StopRequested("b")) == []


def test_a_retry_dropped_by_skip_stays_due_and_moves_no_grid() -> None:
    machine = opened(p.HookSpec(EverySteps(2)), p.HookSpec(EverySteps(3), when_busy="skip"))
    machine.receive(p.BoundaryOpened(3))
    machine.receive(p.SaveOffered(0, now=0.0))
    machine.receive(p.Prepared(0))
    machine.receive(p.SaveOffered(1, now=0.0))
    machine.receive(p.PrepareFailed(1))
    machine.receive(p.BoundaryClosed(0.0))
    machine.receive(p.BoundaryOpened(4))
    assert machine.receive(p.SaveOffered(0, now=0.0)) == [p.Proceed(0, taken=False)]
    assert machine.receive(p.SaveOffered(1, now=0.0)) == [p.Skip(1, 4, "busy"), p.Proceed(1, taken=False)]
    machine.receive(p.BoundaryClosed(0.0))
    machine.receive(p.Written(0))
    to_the_end(machine)
    assert boundary(machine, 5, hook=1) == [p.Prepare(1, 5)]
