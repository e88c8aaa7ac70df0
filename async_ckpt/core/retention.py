"""Which checkpoints may go: policies as values, and the one function that applies them.

A policy says what to keep. Everything no policy keeps is surplus, except what nobody may delete: the
newest checkpoint and those the caller protects. A policy looks only at what it is given, so applying
it again to what it left deletes nothing more, and a run that was restarted keeps what the first run
would have kept.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = [
    "All",
    "BestN",
    "Both",
    "Candidate",
    "Either",
    "EveryNHours",
    "EveryNSteps",
    "LatestN",
    "Policy",
    "classic",
    "combined",
    "surplus",
]

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid checkpoint, as far as retention is concerned.

    Attributes:
        step: Its step; the order of checkpoints is the order of their steps.
        created: Wall clock of its save, in seconds since the epoch.
        metrics: What was reported about it.
    """

    step: int
    created: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


class Policy(ABC):
    """Says which checkpoints to keep. ``a | b`` keeps what either keeps, ``a & b`` what both keep."""

    __slots__ = ()

    @abstractmethod
    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The steps worth keeping, out of ``candidates`` in ascending order of step."""

    def __or__(self, other: object) -> Policy:
        return Either((self, other)) if isinstance(other, Policy) else NotImplemented

    def __and__(self, other: object) -> Policy:
        return Both((self, other)) if isinstance(other, Policy) else NotImplemented


@dataclass(frozen=True, slots=True)
class All(Policy):
    """Keeps everything."""

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """All of them."""
        return {c.step for c in candidates}


@dataclass(frozen=True, slots=True)
class LatestN(Policy):
    """Keeps the ``n`` checkpoints with the highest steps.

    Raises:
        ValueError: ``n`` is less than 1.
        TypeError: ``n`` is not an integer.
    """

    n: int

    def __post_init__(self) -> None:
        _count("LatestN", self.n)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The last ``n`` of them."""
        return {c.step for c in candidates[-self.n :]}


@dataclass(frozen=True, slots=True)
class BestN(Policy):
    """Keeps the ``n`` checkpoints with the best value of one metric; of equals the newer is better.

    A checkpoint without the metric, or with NaN, is never among the best. While fewer than ``n``
    checkpoints have the metric, the others are surplus to this policy all the same.

    Args:
        n: How many.
        metric: The name it was reported under.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is.

    Raises:
        ValueError: ``n`` is less than 1, ``metric`` is empty, or ``mode`` is something else.
        TypeError: ``n`` is not an integer.
    """

    n: int
    metric: str
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _count("BestN", self.n)
        if not self.metric:
            message = f"BestN needs the name of a metric, not {self.metric!r}"
            raise ValueError(message)
        if self.mode not in ("max", "min"):
            message = f"the mode of BestN is 'max' or 'min', not {self.mode!r}"
            raise ValueError(message)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The ``n`` best of those that have a value."""
        sign = 1.0 if self.mode == "max" else -1.0
        ranked = sorted(
            (sign * value, c.step)
            for c in candidates
            if (value := c.metrics.get(self.metric)) is not None and not math.isnan(value)
        )
        return {step for _, step in ranked[-self.n :]}


@dataclass(frozen=True, slots=True)
class EveryNSteps(Policy):
    """Keeps the first checkpoint at or after each multiple of ``n`` (zero is one).

    The grid is fixed, so irregular saves do not make it drift: with ``n=100`` and saves at 130, 190,
    260 and 340, those at 130, 260 and 340 are kept.

    Raises:
        ValueError: ``n`` is less than 1.
        TypeError: ``n`` is not an integer.
    """

    n: int

    def __post_init__(self) -> None:
        _count("EveryNSteps", self.n)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The first one in each stretch of ``n`` steps."""
        first: dict[int, int] = {}
        for c in candidates:
            first.setdefault(c.step // self.n, c.step)
        return set(first.values())


@dataclass(frozen=True, slots=True)
class EveryNHours(Policy):
    """Keeps the oldest checkpoint, then each one saved at least ``n`` hours after the last kept one.

    Counted from the kept checkpoint's own time, so after a pause of any length one checkpoint is
    kept, not one for each hour missed. A clock that was put back behind the last kept checkpoint
    starts the count anew: one too many is kept rather than none until the clock has caught up.

    Raises:
        ValueError: ``n`` is not above zero, or is NaN.
    """

    n: float

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not self.n > 0:
            message = f"EveryNHours needs a number of hours above zero, not {self.n!r}"
            raise ValueError(message)

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The oldest, and whatever is far enough from the one kept before it."""
        kept: set[int] = set()
        last: float | None = None
        for c in candidates:
            if last is None or c.created < last or c.created - last >= self.n * SECONDS_PER_HOUR:
                kept.add(c.step)
                last = c.created
        return kept


@dataclass(frozen=True, slots=True)
class Either(Policy):
    """Keeps what at least one of its policies keeps."""

    policies: tuple[Policy, ...]

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The union."""
        return {step for p in self.policies for step in p.keeps(candidates)}


@dataclass(frozen=True, slots=True)
class Both(Policy):
    """Keeps what each of its policies keeps."""

    policies: tuple[Policy, ...]

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The intersection."""
        first, *rest = (p.keeps(candidates) for p in self.policies)
        return first.intersection(*rest)


def combined(policies: Policy | Iterable[Policy]) -> Policy:
    """One policy that stands for ``policies``: several keep what any one of them keeps.

    Raises:
        ValueError: There is none, which would leave the newest checkpoint only.
        TypeError: Something in it is not a policy.
    """
    if isinstance(policies, Policy):
        return policies
    given = tuple(policies)
    for policy in given:
        if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
            message = f"{policy!r} is not a retention policy"
            raise TypeError(message)
    if not given:
        message = "name at least one retention policy; All() keeps everything"
        raise ValueError(message)
    return given[0] if len(given) == 1 else Either(given)


def classic(max_to_keep: int | None = 5, keep_checkpoint_every_n_hours: float | None = None) -> Policy:
    """The two numbers of TensorFlow's saver, as its documentation describes them.

    Args:
        max_to_keep: How many of the newest to keep; None and 0 keep everything. Whatever exceeds it
            goes at once.
        keep_checkpoint_every_n_hours: Of those that would go, one stays for every so many hours. The
            count is read off the checkpoints themselves, so a restart does not reset it.

    Raises:
        ValueError: ``max_to_keep`` is negative, or the hours are not above zero.
        TypeError: ``max_to_keep`` is not an integer.
    """
    hourly = None if keep_checkpoint_every_n_hours is None else EveryNHours(keep_checkpoint_every_n_hours)
    if max_to_keep is None or (_integer("max_to_keep", max_to_keep) == 0):
        return All()
    latest = LatestN(max_to_keep)
    return latest if hourly is None else latest | hourly


def surplus(
    candidates: Iterable[Candidate],
    policies: Policy | Iterable[Policy],
    *,
    protected: Collection[int] = (),
) -> list[int]:
    """The steps that may be deleted, ascending.

    Args:
        candidates: The valid checkpoints, in any order; a damaged one neither counts nor goes.
        policies: What to keep; of several, what any one keeps.
        protected: Steps that stay whatever the policies say: pinned, restored from, being read.

    Returns:
        Never the highest step, never a protected one. Applied to what is left, the same policies
        give an empty list.
    """
    policy = combined(policies)
    ordered = sorted(candidates, key=operator.attrgetter("step"))
    everything = [c.step for c in ordered]
    spared = {*protected, *everything[-1:]}
    left = ordered
    while True:
        # One pass is enough for all but an hourly policy inside `&`, which may keep less once the
        # checkpoints it counted from are gone; deciding that now is what makes a second run a no-op.
        kept = policy.keeps(left) | spared
        remaining = [c for c in left if c.step in kept]
        if len(remaining) == len(left):
            break
        left = remaining
    survivors = {c.step for c in left}
    return [step for step in everything if step not in survivors]


def _integer(name: str, n: object) -> int:
    if isinstance(n, float) and math.isnan(n):
        message = f"{name} needs a number, not NaN"
        raise ValueError(message)
    if isinstance(n, bool) or not isinstance(n, int):
        message = f"{name} needs an integer, not {n!r}"
        raise TypeError(message)
    return n


def _count(name: str, n: object) -> None:
    if _integer(name, n) < 1:
        message = f"{name} needs at least 1, not {n}"
        raise ValueError(message)
