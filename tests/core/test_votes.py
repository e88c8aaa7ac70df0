"""Votes: truthy returns are counted by a named rule, never lost, never reset."""

from __future__ import annotations

from typing import Any

import pytest

from async_ckpt.core.votes import Rule, Tally, Vote, all_of, any_of, at_least


@pytest.mark.parametrize(
    ("rule", "voted", "voters", "stop"),
    [
        (any_of, 0, 3, False),
        (any_of, 1, 3, True),
        (all_of, 2, 3, False),
        (all_of, 3, 3, True),
        (all_of, 0, 0, False),
        (at_least(2), 1, 5, False),
        (at_least(2), 2, 5, True),
    ],
)
def test_rules_decide_by_count(rule: Rule, voted: int, voters: int, stop: bool) -> None:
    assert rule(voted, voters) is stop


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "2"])
def test_at_least_refuses_what_is_no_positive_count(n: Any) -> None:
    with pytest.raises(ValueError, match="at_least"):
        at_least(n)


def test_a_second_vote_of_one_listener_changes_nothing() -> None:
    tally = Tally(any_of, 2).cast(Vote("A", 2, "first")).cast(Vote("A", 4, "second"))
    assert tally.votes == (Vote("A", 2, "first"),)


def test_votes_keep_the_order_in_which_they_came() -> None:
    tally = Tally(all_of, 2).cast(Vote("B", 2)).cast(Vote("A", 4))
    assert [vote.listener for vote in tally.votes] == ["B", "A"]
    assert tally.decided


def test_an_earlier_life_counts_for_nothing_and_does_not_block_a_new_vote() -> None:
    tally = Tally(any_of, 1, (Vote("A", 1, earlier=True),))
    assert not tally.decided
    again = tally.cast(Vote("A", 5))
    assert again.decided
    assert again.votes == (Vote("A", 5),)
