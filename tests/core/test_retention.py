"""Retention: what may be deleted, and what never is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.core.retention import (
    All,
    BestN,
    Candidate,
    EveryNHours,
    EveryNSteps,
    LatestN,
    Policy,
    classic,
    combined,
    surplus,
)

HOUR = 3600.0


def hourly(*hours: float, start: int = 1) -> list[Candidate]:
    return [Candidate(step, hour * HOUR) for step, hour in enumerate(hours, start)]


def scored(*values: float | None) -> list[Candidate]:
    return [
        Candidate(step, 0.0, {} if value is None else {"acc": value}) for step, value in enumerate(values)
    ]


def kept(
    candidates: list[Candidate], policies: Policy | list[Policy], protected: tuple[int, ...] = ()
) -> list[int]:
    gone = surplus(candidates, policies, protected=protected)
    return [c.step for c in candidates if c.step not in gone]


# -- each policy ---------------------------------------------------------------------------------


def test_latest_n_trims_all_excess_at_once() -> None:
    assert surplus(hourly(1, 2, 3, 4, 5), LatestN(2), protected=()) == [1, 2, 3]


def test_order_is_by_step_and_not_by_time_or_by_position() -> None:
    shuffled = [Candidate(30, 1.0), Candidate(10, 3.0), Candidate(20, 2.0)]
    assert surplus(shuffled, LatestN(1)) == [10, 20]


def test_nothing_to_choose_from_gives_nothing() -> None:
    assert surplus([], LatestN(1)) == []


def test_best_n_keeps_the_highest_and_the_newest() -> None:
    assert kept(scored(0.9, 0.1, 0.8, 0.2, 0.3), BestN(2, "acc")) == [0, 2, 4]


def test_best_n_by_minimum() -> None:
    assert kept(scored(0.9, 0.1, 0.8, 0.2, 0.3), BestN(2, "acc", mode="min")) == [1, 3, 4]


def test_of_equals_the_newer_is_better() -> None:
    assert kept(scored(0.5, 0.5, 0.5, 0.1), BestN(1, "acc")) == [2, 3]
    assert kept(scored(0.5, 0.5, 0.5, 0.9), BestN(1, "acc", mode="min")) == [2, 3]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_nan_and_a_missing_metric_are_never_best(mode: str) -> None:
    assert kept(scored(0.5, math.nan, None, math.nan), BestN(2, "acc", mode=mode)) == [0, 3]  # type: ignore[arg-type]


def test_every_n_steps_keeps_the_first_at_or_after_each_multiple() -> None:
    steps = [Candidate(s, 0.0) for s in (130, 190, 260, 340, 350)]
    assert kept(steps, EveryNSteps(100)) == [130, 260, 340, 350]


def test_every_n_steps_does_not_drift_with_irregular_saves() -> None:
    left: list[Candidate] = []
    for step in range(0, 1000, 7):
        left.append(Candidate(step, 0.0))
        gone = surplus(left, EveryNSteps(100))
        left = [c for c in left if c.step not in gone]
    assert [c.step for c in left] == [0, 105, 203, 301, 406, 504, 602, 700, 805, 903, 994]


def test_every_n_hours_counts_from_the_last_kept_one() -> None:
    assert kept(hourly(0, 1.5, 2.5, 4, 4.5, 5), EveryNHours(2)) == [1, 3, 5, 6]


def test_every_n_hours_is_inclusive() -> None:
    assert kept(hourly(0, 2, 3), EveryNHours(2)) == [1, 2, 3]


def test_a_pause_does_not_bring_a_burst() -> None:
    assert kept(hourly(0, 8, 8.2, 8.4, 8.6, 8.8), EveryNHours(1)) == [1, 2, 6]


def test_a_clock_put_back_does_not_stop_the_hourly_rule() -> None:
    assert kept(hourly(100, 1, 1.5, 2, 2.5), EveryNHours(1)) == [1, 2, 4, 5]


def test_all_keeps_everything() -> None:
    assert surplus(hourly(1, 2, 3), All()) == []


# -- combining -----------------------------------------------------------------------------------


def test_a_list_is_a_union() -> None:
    policies = [LatestN(2), EveryNSteps(3)]
    candidates = [Candidate(s, 0.0) for s in range(8)]
    assert kept(candidates, policies) == [0, 3, 6, 7] == kept(candidates, LatestN(2) | EveryNSteps(3))


def test_and_keeps_what_both_keep() -> None:
    candidates = [Candidate(s, 0.0) for s in range(8)]
    assert kept(candidates, LatestN(4) & EveryNSteps(3)) == [6, 7]


def test_and_is_settled_in_one_call_even_when_its_anchor_goes() -> None:
    candidates = [
        Candidate(1, 0 * HOUR, {"acc": 0.0}),
        Candidate(2, 1 * HOUR, {"acc": 0.0}),
        Candidate(3, 2 * HOUR, {"acc": 9.0}),
        Candidate(4, 9 * HOUR, {"acc": 1.0}),
    ]
    policy = EveryNHours(2) & BestN(1, "acc")
    gone = surplus(candidates, policy, protected={2})
    rest = [c for c in candidates if c.step not in gone]
    assert gone == [1, 3]
    assert surplus(rest, policy, protected={2}) == []


def test_only_policies_combine() -> None:
    with pytest.raises(TypeError):
        _ = LatestN(1) | 3
    with pytest.raises(TypeError):
        _ = LatestN(1) & "no"
    with pytest.raises(TypeError, match="not a retention policy"):
        combined([LatestN(1), 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least one"):
        combined([])


# -- TensorFlow's two numbers --------------------------------------------------------------------


@pytest.mark.parametrize("max_to_keep", [None, 0])
def test_classic_without_a_maximum_keeps_everything(max_to_keep: int | None) -> None:
    assert surplus(hourly(1, 2, 3), classic(max_to_keep)) == []
    assert surplus(hourly(1, 2, 3), classic(max_to_keep, 2)) == []


def test_classic_refuses_a_negative_maximum_instead_of_deleting_everything() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        classic(-1)


def test_classic_refuses_a_maximum_that_is_no_integer() -> None:
    with pytest.raises(TypeError, match="max_to_keep needs an integer"):
        classic(False)


def test_classic_keeps_one_for_every_so_many_hours_of_those_that_would_go() -> None:
    left: list[Candidate] = []
    for hour in range(1, 12):
        left.append(Candidate(hour, hour * HOUR))
        gone = surplus(left, classic(2, 2))
        left = [c for c in left if c.step not in gone]
    assert [c.step for c in left] == [1, 3, 5, 7, 9, 10, 11]


def test_classic_hours_survive_restarts() -> None:
    """A job restarted every 1.5 hours still keeps one for every two: nothing but the files counts."""
    assert kept(hourly(0, 1.4, 1.6, 2.9, 3.1, 4.4, 4.6), classic(1, 2)) == [1, 4, 7]


# -- validation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, math.nan])
def test_a_count_below_one_is_refused(n: float) -> None:
    for make in (LatestN, EveryNSteps, lambda v: BestN(v, "acc")):
        with pytest.raises(ValueError, match=r"at least 1|NaN"):
            make(n)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1.5, True, "3", None])
def test_a_count_that_is_no_integer_is_refused(n: object) -> None:
    for make in (LatestN, EveryNSteps, lambda v: BestN(v, "acc")):
        with pytest.raises(TypeError, match="integer"):
            make(n)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -0.5, math.nan, True])
def test_hours_that_are_not_above_zero_are_refused(n: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        EveryNHours(n)
    with pytest.raises(ValueError, match="above zero"):
        classic(None, n)


def test_best_n_needs_a_metric_and_a_known_mode() -> None:
    with pytest.raises(ValueError, match="metric"):
        BestN(1, "")
    with pytest.raises(ValueError, match="mode"):
        BestN(1, "acc", mode="best")  # type: ignore[arg-type]


def test_a_policy_is_a_value() -> None:
    assert LatestN(3) == LatestN(3)
    assert LatestN(3) | BestN(1, "acc") == LatestN(3) | BestN(1, "acc")
    assert len({LatestN(3), LatestN(3)}) == 1


# -- what holds for any history ------------------------------------------------------------------

metrics = st.dictionaries(st.sampled_from(["acc", "loss"]), st.floats(), max_size=2)
histories = st.lists(
    st.builds(Candidate, st.integers(0, 300), st.floats(0, 40 * HOUR), metrics),
    max_size=25,
    unique_by=lambda c: c.step,
)
simple = st.one_of(
    st.builds(LatestN, st.integers(1, 6)),
    st.builds(BestN, st.integers(1, 4), st.sampled_from(["acc", "loss"]), st.sampled_from(["max", "min"])),
    st.builds(EveryNSteps, st.integers(1, 60)),
    st.builds(EveryNHours, st.floats(0.1, 20)),
)
policies = st.recursive(
    simple, lambda p: st.one_of(st.builds(Policy.__or__, p, p), st.builds(Policy.__and__, p, p)), max_leaves=4
)
steps = st.sets(st.integers(0, 300), max_size=6)


@given(histories, policies, steps)
def test_never_the_newest_and_never_a_protected_one(
    history: list[Candidate], policy: Policy, protected: set[int]
) -> None:
    gone = surplus(history, policy, protected=protected)
    assert gone == sorted(set(gone))
    assert set(gone) <= {c.step for c in history}
    assert not set(gone) & protected
    if history:
        assert max(c.step for c in history) not in gone


@given(histories, policies, steps)
def test_a_second_run_deletes_nothing_more(
    history: list[Candidate], policy: Policy, protected: set[int]
) -> None:
    gone = surplus(history, policy, protected=protected)
    rest = [c for c in history if c.step not in gone]
    assert surplus(rest, policy, protected=protected) == []


@given(histories, st.lists(simple, min_size=1, max_size=4), steps)
def test_a_union_keeps_at_least_what_each_keeps(
    history: list[Candidate], several: list[Policy], protected: set[int]
) -> None:
    together = set(surplus(history, several, protected=protected))
    for policy in several:
        assert together <= set(surplus(history, policy, protected=protected))


@given(histories, simple, simple)
def test_both_keep_at_most_what_each_keeps(history: list[Candidate], one: Policy, two: Policy) -> None:
    together = set(surplus(history, one & two))
    for policy in (one, two):
        assert together >= set(surplus(history, policy))


@given(histories, policies)
def test_the_order_of_the_listing_does_not_matter(history: list[Candidate], policy: Policy) -> None:
    assert surplus(history, policy) == surplus(history[::-1], policy)
