"""The words of the machine: inputs it is told, commands it gives.

Inputs are facts in the past tense, handed in by the shell; commands are orders in the imperative,
carried out by it. ``hook`` is a saver hook's index in session order, ``step`` a step count, ``now``
a monotonic reading in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from async_ckpt.core.triggers import Trigger
from async_ckpt.core.votes import Rule, Vote

__all__ = [
    "BoundaryClosed",
    "BoundaryOpened",
    "CloseRequested",
    "Closed",
    "Command",
    "Commit",
    "CommitFailed",
    "Committed",
    "DecideStop",
    "EndRound",
    "HookSpec",
    "Input",
    "OfferWithdrawn",
    "Opened",
    "Prepare",
    "PrepareFailed",
    "Prepared",
    "Proceed",
    "Report",
    "ReportOwed",
    "Reported",
    "SaveOffered",
    "Settle",
    "Settled",
    "Skip",
    "StopRequested",
    "WriteFailed",
    "Written",
]


@dataclass(frozen=True, slots=True)
class HookSpec:
    """What the machine has to know of one saver hook.

    Attributes:
        trigger: Its schedule, anchored at the step and time of entry.
        durable: The newest step known to be durable in its directory that is this run's own, or None.
        initial: Whether the boundary that ends the entry is to be saved.
    """

    trigger: Trigger
    when_busy: Literal["wait", "skip", "coalesce"] = "wait"
    blocking: bool = False
    honor_stop: Literal["next_step", "next_save"] = "next_step"
    rule: Rule | None = None
    voters: int = 0
    earlier_votes: tuple[Vote, ...] = ()
    durable: int | None = None
    initial: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The session was entered at ``step`` with these saver hooks."""

    step: int
    hooks: tuple[HookSpec, ...]


@dataclass(frozen=True, slots=True)
class ReportOwed:
    """The checkpoint resumed from never got its ``after_save`` (a crash came between)."""

    hook: int
    step: int


@dataclass(frozen=True, slots=True)
class BoundaryOpened:
    """A boundary at ``step`` may save: every ``check`` has passed.

    ``kind`` is ``"step"`` behind a step, ``"entry"`` for the one that ends the entry, and
    ``"demand"`` between steps (a request from outside, or the final save); the last moves no grid.
    """

    step: int
    kind: Literal["step", "entry", "demand"] = "step"


@dataclass(frozen=True, slots=True)
class SaveOffered:
    """It is this hook's place in the boundary.

    ``wanted`` is its predicate's answer; ``asked`` says that somebody asked for a save on demand,
    or that this is the final one.
    """

    hook: int
    now: float
    wanted: bool = False
    asked: bool = False


@dataclass(frozen=True, slots=True)
class OfferWithdrawn:
    """The step that waited for a free slot was cancelled."""

    hook: int


@dataclass(frozen=True, slots=True)
class BoundaryClosed:
    """The boundary gives control back at ``now``."""

    now: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """``before_save`` is through and the state is staged, or its copy is under way."""

    hook: int


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """A ``before_save`` or the staging failed, or was cancelled: nothing will be written."""

    hook: int


@dataclass(frozen=True, slots=True)
class Written:
    """Every byte and the manifest are durable under the temporary name."""

    hook: int


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """Writing failed; nothing will appear."""

    hook: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The checkpoint is durable under its final name."""

    hook: int


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The commit failed, or its outcome is unknown; either way it is not acknowledged."""

    hook: int


@dataclass(frozen=True, slots=True)
class Reported:
    """Every ``after_save`` of the hook was reached; these are the votes, in call order."""

    hook: int
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """The report is on disk (or its failure is noted), retention ran, the memory is free."""

    hook: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody asked the session to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The session is being left; no round starts any more."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Every ``end`` was reached and the savers are closed."""


SessionInput = (
    Opened
    | ReportOwed
    | BoundaryOpened
    | SaveOffered
    | OfferWithdrawn
    | BoundaryClosed
    | StopRequested
    | CloseRequested
    | Closed
)
SaveInput = Prepared | PrepareFailed | Written | WriteFailed | Committed | CommitFailed | Reported | Settled
Input = SessionInput | SaveInput


@dataclass(frozen=True, slots=True)
class Prepare:
    """Call the hook's ``before_save`` callbacks, then stage."""

    hook: int
    step: int


@dataclass(frozen=True, slots=True)
class Skip:
    """A save was due and is dropped; tell the observers."""

    hook: int
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Proceed:
    """The boundary may go on behind this hook. ``taken``: whether a save of this step is under way."""

    hook: int
    taken: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """Let the written save take its final name."""

    hook: int
    step: int


@dataclass(frozen=True, slots=True)
class Report:
    """Call the hook's ``after_save`` callbacks."""

    hook: int
    step: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Write the report, run retention, free the staged memory."""

    hook: int
    step: int


@dataclass(frozen=True, slots=True)
class DecideStop:
    """The session stops: ``should_stop()`` is to be true from the end of the next boundary on."""

    reason: str


@dataclass(frozen=True, slots=True)
class EndRound:
    """No save of this round is left; whoever waits for that may go on."""

    step: int


Command = Prepare | Skip | Proceed | Commit | Report | Settle | DecideStop | EndRound
