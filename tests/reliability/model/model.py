"""What a directory holds and a session knows, as a reader of the documentation would say it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["Directory", "Kept", "Life"]

Harm = Literal["", "unread", "met", "seen"]
HARMS: tuple[Harm, ...] = ("", "unread", "met", "seen")


@dataclass(frozen=True)
class Kept:
    """A checkpoint.

    Attributes:
        code: What was saved.
        harm: ``"seen"`` by a listing, ``"met"`` by whoever reads the tensors, ``"unread"`` but by a
            verification, or ``""``.
        reported: Whether its report is there and whole.
        vote: The step at which the listener last voted, by that report.
    """

    code: int
    harm: Harm = ""
    reported: bool = False
    vote: int | None = None

    @property
    def restorable(self) -> bool:
        """Whether it can be resumed from: that reads no headers of tensor files."""
        return self.harm in {"", "unread"}

    def harmed(self, harm: Harm) -> Kept:
        """Give it with this harm, or the greater one that it has."""
        return replace(self, harm=max(self.harm, harm, key=HARMS.index))


@dataclass
class Life:
    """A session, from its entry on.

    Attributes:
        start: The step that it began at.
        restored: Whether it began with a checkpoint of that step.
        step: The step counter.
        durable: The last step that was saved or restored.
        vote: The step at which the listener voted last, in this life or before.
        voted: Whether it voted in this life.
        stopped: Whether a boundary has come since, and the session has stopped.
        behind: Whether a save was taken, so that what lay above the start is out of the way.
    """

    start: int
    restored: bool
    step: int
    durable: int | None
    vote: int | None = None
    voted: bool = False
    stopped: bool = False
    behind: bool = False


@dataclass
class Directory:
    """A directory and its rules.

    Attributes:
        keep: How many checkpoints are kept, or None.
        blocking: Whether a boundary waits for the votes on its save.
        kept: The checkpoints by step.
        pins: The pinned steps.
        life: The session that writes into it, or None.
    """

    keep: int | None
    blocking: bool
    kept: dict[int, Kept] = field(default_factory=dict)
    pins: set[int] = field(default_factory=set)
    life: Life | None = None

    @property
    def listed(self) -> list[int]:
        """What a listing shows."""
        return [step for step in sorted(self.kept) if self.kept[step].harm != "seen"]

    @property
    def newest(self) -> int | None:
        """What is resumed from."""
        return max((step for step, found in self.kept.items() if found.restorable), default=None)

    def enter(self) -> tuple[Life, bool]:
        """Begin a life; says whether ``after_save`` of its checkpoint is still owed."""
        step = self.newest
        found = None if step is None else self.kept[step]
        vote = found.vote if found is not None and found.reported else None
        self.life = Life(step or 0, step is not None, step or 0, durable=step, vote=vote)
        return self.life, found is not None and not found.reported

    def boundary(self, code: int | None, *, votes: bool) -> None:
        """Pass a boundary; a save is taken there unless ``code`` is None."""
        life = self.life
        assert life is not None
        known = life.voted
        if code is not None:
            self.save(code, votes=votes)
        life.stopped = known or (life.voted and self.blocking)

    def save(self, code: int, *, votes: bool) -> None:
        """Save the step that the life is at."""
        life = self.life
        assert life is not None
        self.set_aside()
        self.kept[life.step] = Kept(code)
        life.durable = life.step
        self.report(life.step, votes=votes)

    def set_aside(self) -> None:
        """Before the first save of a life: what lies above its start belongs to another one."""
        life = self.life
        assert life is not None
        if not life.behind:
            self.kept = {step: found for step, found in self.kept.items() if step <= life.start}
            self.pins &= self.kept.keys()
            life.behind = True

    def report(self, step: int, *, votes: bool) -> None:
        """Report on a checkpoint, then delete the ones there are too many of."""
        life = self.life
        assert life is not None
        if votes and not life.voted:
            life.vote, life.voted = step, True
        self.kept[step] = replace(self.kept[step], reported=True, vote=life.vote)
        self.prune()

    def prune(self) -> None:
        """Delete what is too much: damaged ones, as far as one can see, neither count nor go."""
        spared = set(self.listed if self.keep is None else self.listed[-self.keep :]) | self.pins
        if self.life is not None and self.life.restored:
            spared.add(self.life.start)
        for step in set(self.listed) - spared:
            del self.kept[step]
