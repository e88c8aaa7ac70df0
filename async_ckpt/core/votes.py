"""The tally of stop votes: who ever voted, in order, and what that decides.

A vote is never taken back and never reset. Votes loaded from an earlier life are shown, and count
for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Rule", "Tally", "Vote", "all_of", "any_of", "at_least"]

Rule = Callable[[int, int], bool]
"""``rule(voted, voters) -> bool``: is that enough to stop?"""


def any_of(voted: int, voters: int) -> bool:  # noqa: ARG001 - every rule gets both numbers
    """One vote is enough, as in TensorFlow's ``CheckpointSaverHook``."""
    return voted >= 1


def all_of(voted: int, voters: int) -> bool:
    """Every listener that defines ``after_save`` has to vote; with none of them, nobody stops."""
    return voters > 0 and voted >= voters


def at_least(n: int) -> Rule:
    """Require ``n`` different listeners.

    Raises:
        ValueError: ``n`` is less than 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        message = f"at_least needs a positive number of votes, not {n!r}"
        raise ValueError(message)

    def rule(voted: int, voters: int) -> bool:  # noqa: ARG001
        return voted >= n

    rule.__name__ = rule.__qualname__ = f"at_least({n})"
    return rule


@dataclass(frozen=True, slots=True)
class Vote:
    """One listener's wish to stop.

    Attributes:
        listener: The listener's key: its name, or class name and position.
        step: The save after which it voted first.
        reason: What ``Stop("reason")`` carried, or None.
        earlier: True if it was cast before the run was resumed; such a vote is shown only.
    """

    listener: str
    step: int
    reason: str | None = None
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes of one saver hook's listeners."""

    rule: Rule
    voters: int
    votes: tuple[Vote, ...] = ()

    def cast(self, vote: Vote) -> Tally:
        """Return the tally with ``vote`` in it; a listener's second vote changes nothing.

        A vote of this life takes the place of the same listener's vote of an earlier one.
        """
        if any(v.listener == vote.listener and not v.earlier for v in self.votes):
            return self
        others = tuple(v for v in self.votes if v.listener != vote.listener)
        return Tally(self.rule, self.voters, (*others, vote))

    @property
    def decided(self) -> bool:
        """Whether this life's votes satisfy the rule."""
        return self.rule(sum(not v.earlier for v in self.votes), self.voters)
