"""The scheduler's decisions: one transition table, one ``receive``.

Rule 1: everything that decides when a save is taken, in which order saves are committed and
reported, and whether the session stops, stands in this file.

Rule 2: nothing here acts. ``receive(input)`` changes the state and returns the commands that follow
from it; the shell carries them out in that order and reports back with further inputs.

Two small machines are coupled: the session's phase, and one life per save.

* A *round* is what one boundary saves. Its saves are prepared in hook order while the boundary is
  open; once it is closed the round is sealed and its saves are committed and reported in hook order,
  whichever was written first. A ``blocking`` hook's save runs through at its place instead.
* One round is in flight: a save offered meanwhile waits, is dropped, or is remembered.

Illegal input raises :class:`ProtocolError` and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from async_ckpt.core import protocol as p
from async_ckpt.core.triggers import EverySecs, Retry, Trigger, WhenAsked, is_due, taken
from async_ckpt.core.votes import Tally, Vote, any_of
from async_ckpt.errors import ProtocolError

__all__ = ["PHASES", "SAVES", "Machine", "Phase", "SaveState"]


class Phase(Enum):
    """Where the session is."""

    NEW = "new"
    OPEN = "open"
    BOUNDARY = "boundary"
    CLOSING = "closing"
    CLOSED = "closed"


class SaveState(Enum):
    """Where one save of the round is."""

    HELD = "held"
    PREPARING = "preparing"
    WRITING = "writing"
    WRITTEN = "written"
    COMMITTING = "committing"
    REPORTING = "reporting"
    SETTLING = "settling"
    OVER = "over"


PHASES: dict[Phase, dict[type, Phase]] = {
    Phase.NEW: {p.Opened: Phase.OPEN, p.StopRequested: Phase.NEW, p.Closed: Phase.CLOSED},
    Phase.OPEN: {
        p.ReportOwed: Phase.OPEN,
        p.BoundaryOpened: Phase.BOUNDARY,
        p.StopRequested: Phase.OPEN,
        p.CloseRequested: Phase.CLOSING,
    },
    Phase.BOUNDARY: {
        p.SaveOffered: Phase.BOUNDARY,
        p.OfferWithdrawn: Phase.BOUNDARY,
        p.StopRequested: Phase.BOUNDARY,
        p.BoundaryClosed: Phase.OPEN,
    },
    Phase.CLOSING: {p.StopRequested: Phase.CLOSING, p.Closed: Phase.CLOSED},
    Phase.CLOSED: {p.StopRequested: Phase.CLOSED},
}
"""The session's phases. A missing cell is an illegal input."""

SAVES: dict[SaveState, dict[type, SaveState]] = {
    SaveState.HELD: {p.OfferWithdrawn: SaveState.OVER},
    SaveState.PREPARING: {p.Prepared: SaveState.WRITING, p.PrepareFailed: SaveState.OVER},
    SaveState.WRITING: {p.Written: SaveState.WRITTEN, p.WriteFailed: SaveState.OVER},
    SaveState.WRITTEN: {},
    SaveState.COMMITTING: {p.Committed: SaveState.REPORTING, p.CommitFailed: SaveState.OVER},
    SaveState.REPORTING: {p.Reported: SaveState.SETTLING},
    SaveState.SETTLING: {p.Settled: SaveState.OVER},
    SaveState.OVER: {},
}
"""A save's life. HELD -> PREPARING (the slot is free) and WRITTEN -> COMMITTING (its turn) are the
joint rules in :meth:`Machine._settle_joint_rules`; nothing else moves a save."""


@dataclass(slots=True)
class _Hook:
    spec: p.HookSpec
    trigger: Trigger
    tally: Tally
    durable: int | None
    retry: Retry = field(default_factory=Retry)
    remembered: bool = False
    #: the step whose save completed the decision to stop at the next save, if any
    stops_after: int | None = None
    #: True from the moment this boundary took or dropped a save until it is closed
    timed: bool = False


@dataclass(slots=True)
class _Save:
    hook: int
    step: int
    state: SaveState
    by_trigger: bool
    blocking: bool
    now: float


class Machine:
    """The pure scheduler of one session; see the module's docstring.

    Attributes:
        due_step: The first step whose boundary could have anything to decide: infinity when only the clock
            or a request could make it, minus infinity when every boundary has to be looked at (a predicate,
            a retry, a remembered save).
        due_time: The monotonic reading from which on the same holds, in seconds; infinity without a timer.
    """

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self.step = 0
        self.due_step = self.due_time = float("inf")
        self._hooks: list[_Hook] = []
        self._saves: list[_Save] = []
        self._held: _Save | None = None
        self._sealed = False
        self._kind = "step"
        self._stopping = False

    # -- what the shell may read -------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """No save is in flight."""
        return not self._saves and self._held is None

    @property
    def held(self) -> int | None:
        """The hook whose save waits for the round in flight, if one does."""
        return None if self._held is None else self._held.hook

    def state_of(self, hook: int) -> SaveState | None:
        """Where this hook's save is, or None if it has none in flight."""
        save = self._find(hook)
        return None if save is None else save.state

    def votes(self) -> tuple[Vote, ...]:
        """Every vote of every hook, in hook order, those of an earlier life first."""
        return tuple(vote for hook in self._hooks for vote in hook.tally.votes)

    def due(self, hook: int, *, step: int, now: float, wanted: bool) -> bool:
        """Whether the coming step boundary would ask this hook for a save."""
        state = self._hooks[hook]
        return (
            state.remembered
            or state.retry.boundary().due
            or is_due(state.trigger, step=step, now=now, wanted=wanted)
        )

    # -- the one way in ----------------------------------------------------------------------

    def receive(self, event: p.Input) -> list[p.Command]:
        """Take one input and return the commands that follow from it.

        Raises:
            ProtocolError: The input has no cell in the table for the present state.
        """
        commands: list[p.Command] = []
        kind = type(event)
        if kind in _SAVE_INPUTS:
            save = self._find(event.hook)  # type: ignore[union-attr]
            target = SAVES[save.state].get(kind) if save is not None else None
            if save is None or target is None:
                where = "no save" if save is None else f"a save that is {save.state.value}"
                message = f"{kind.__name__} has no meaning for {where} of hook {event.hook}"  # type: ignore[union-attr]
                raise ProtocolError(message)
            save.state = target
            _SAVE_INPUTS[kind](self, save, event, commands)
        else:
            phase = PHASES[self.phase].get(kind)
            if phase is None:
                message = f"{kind.__name__} has no meaning in a session that is {self.phase.value}"
                raise ProtocolError(message)
            _SESSION_INPUTS[kind](self, event, commands)
            self.phase = phase
        self._settle_joint_rules(commands)
        self._look_ahead()
        return commands

    # -- the session -------------------------------------------------------------------------

    def _opened(self, event: p.Opened, _: list[p.Command]) -> None:
        self.step = event.step
        self._hooks = [
            _Hook(
                spec=spec,
                trigger=spec.trigger,
                tally=Tally(spec.rule or any_of, spec.voters, spec.earlier_votes),
                durable=spec.durable,
            )
            for spec in event.hooks
        ]

    def _report_owed(self, event: p.ReportOwed, commands: list[p.Command]) -> None:
        if self._find(event.hook) is not None:
            message = f"hook {event.hook} already has a save in flight"
            raise ProtocolError(message)
        self._saves.append(
            _Save(event.hook, event.step, SaveState.REPORTING, by_trigger=False, blocking=True, now=0.0)
        )
        commands.append(p.Report(event.hook, event.step))

    def _boundary_opened(self, event: p.BoundaryOpened, _: list[p.Command]) -> None:
        if event.step < self.step:
            message = f"the step counter went back from {self.step} to {event.step}"
            raise ProtocolError(message)
        self.step = event.step
        self._kind = event.kind
        if event.kind == "step":
            for hook in self._hooks:
                hook.retry = hook.retry.boundary()

    def _save_offered(self, event: p.SaveOffered, commands: list[p.Command]) -> None:
        hook = self._hooks[event.hook]
        if self._held is not None or (self._find(event.hook) is not None and not self._sealed):
            message = f"hook {event.hook} was offered its place twice in one boundary"
            raise ProtocolError(message)
        by_trigger = False
        if self._kind == "entry":
            by_trigger = hook.spec.initial
        elif self._kind == "step":
            by_trigger = hook.remembered or is_due(
                hook.trigger, step=self.step, now=event.now, wanted=event.wanted
            )
        retry = self._kind == "step" and hook.retry.due
        asked = event.asked and hook.durable != self.step
        if not (by_trigger or retry or asked):
            commands.append(p.Proceed(event.hook, taken=False))
            return
        save = _Save(
            event.hook,
            self.step,
            SaveState.HELD,
            by_trigger=by_trigger,
            blocking=hook.spec.blocking,
            now=event.now,
        )
        if not self._sealed or event.asked or hook.spec.when_busy == "wait":
            self._held = save
            return
        if hook.spec.when_busy == "coalesce":
            hook.remembered = True
        else:
            if by_trigger:
                self._move_trigger(hook, event.now)
            commands.append(p.Skip(event.hook, self.step, "busy"))
        commands.append(p.Proceed(event.hook, taken=False))

    def _offer_withdrawn(self, event: p.OfferWithdrawn, _: list[p.Command]) -> None:
        if self._held is None or self._held.hook != event.hook:
            message = f"hook {event.hook} is not waiting for a slot"
            raise ProtocolError(message)
        self._held = None

    def _boundary_closed(self, event: p.BoundaryClosed, _: list[p.Command]) -> None:
        if self._held is not None or any(save.state is SaveState.PREPARING for save in self._saves):
            message = "the boundary cannot close while a save is being prepared"
            raise ProtocolError(message)
        for hook in self._hooks:
            if (hook.timed or self._kind == "entry") and isinstance(hook.trigger, EverySecs):
                hook.trigger = taken(hook.trigger, step=self.step, now=event.now)
            hook.timed = False
        # The step that waited for a blocking save was cancelled: the save completes behind it, and goes
        # first, where its callbacks would have been.
        self._saves.sort(key=lambda save: not save.blocking)
        for save in self._saves:
            save.blocking = False
        self._sealed = bool(self._saves)

    def _stop_requested(self, event: p.StopRequested, commands: list[p.Command]) -> None:
        self._decide(event.reason, commands)

    def _close_requested(self, _: p.CloseRequested, __: list[p.Command]) -> None:
        return

    def _closed(self, _: p.Closed, __: list[p.Command]) -> None:
        return

    # -- one save ----------------------------------------------------------------------------

    def _prepared(self, save: _Save, _: p.Prepared, commands: list[p.Command]) -> None:
        if not save.blocking:
            commands.append(p.Proceed(save.hook, taken=True))

    def _failed(self, save: _Save, _: Any, commands: list[p.Command]) -> None:
        hook = self._hooks[save.hook]
        hook.retry = hook.retry.failed()
        self._over(save, commands, taken=False, proceed=save.blocking)

    def _prepare_failed(self, save: _Save, _: p.PrepareFailed, commands: list[p.Command]) -> None:
        hook = self._hooks[save.hook]
        hook.retry = hook.retry.failed()
        self._over(save, commands, taken=False, proceed=True)

    def _written(self, _: _Save, __: p.Written, ___: list[p.Command]) -> None:
        return

    def _committed(self, save: _Save, _: p.Committed, commands: list[p.Command]) -> None:
        hook = self._hooks[save.hook]
        hook.durable = save.step
        hook.retry = Retry()
        commands.append(p.Report(save.hook, save.step))

    def _reported(self, save: _Save, event: p.Reported, commands: list[p.Command]) -> None:
        hook = self._hooks[save.hook]
        before = hook.tally.decided
        for vote in event.votes:
            hook.tally = hook.tally.cast(vote)
        if hook.tally.decided and not before:
            if hook.spec.honor_stop == "next_step":
                self._decide(_stop_reason(hook.tally), commands)
            else:
                hook.stops_after = save.step
        commands.append(p.Settle(save.hook, save.step))

    def _settled(self, save: _Save, _: p.Settled, commands: list[p.Command]) -> None:
        self._over(save, commands, taken=True, proceed=save.blocking)

    # -- joint rules -------------------------------------------------------------------------

    def _settle_joint_rules(self, commands: list[p.Command]) -> None:
        held = self._held
        if held is not None and not self._sealed:
            self._held = None
            if self._kind != "entry" and self._hooks[held.hook].durable == held.step:
                # What was in flight while it waited was this very step.
                commands.append(p.Proceed(held.hook, taken=False))
            else:
                self._start(held, commands)
        for save in self._saves:
            if save.state is SaveState.WRITTEN and (
                save.blocking or (self._sealed and save is self._saves[0])
            ):
                save.state = SaveState.COMMITTING
                commands.append(p.Commit(save.hook, save.step))

    def _start(self, save: _Save, commands: list[p.Command]) -> None:
        hook = self._hooks[save.hook]
        hook.remembered = False
        hook.retry = hook.retry.started()
        if save.by_trigger:
            self._move_trigger(hook, save.now)
            if hook.stops_after is not None and hook.stops_after < save.step:
                self._decide(_stop_reason(hook.tally), commands)
        save.state = SaveState.PREPARING
        self._saves.append(save)
        commands.append(p.Prepare(save.hook, save.step))

    def _over(self, save: _Save, commands: list[p.Command], *, taken: bool, proceed: bool) -> None:
        save.state = SaveState.OVER
        self._saves.remove(save)
        if proceed:
            commands.append(p.Proceed(save.hook, taken=taken))
        if not self._saves:
            self._sealed = False
            commands.append(p.EndRound(save.step))

    def _look_ahead(self) -> None:
        step = time = float("inf")
        for hook in self._hooks:
            trigger = hook.trigger
            if hook.remembered or hook.retry.failures or isinstance(trigger, WhenAsked):
                step = float("-inf")
            elif isinstance(trigger, EverySecs):
                time = min(time, trigger.last + trigger.every)
            else:
                step = min(step, trigger.last + trigger.every)
        self.due_step, self.due_time = step, time

    def _move_trigger(self, hook: _Hook, now: float) -> None:
        hook.trigger = taken(hook.trigger, step=self.step, now=now)
        hook.timed = True

    def _decide(self, reason: str, commands: list[p.Command]) -> None:
        if not self._stopping:
            self._stopping = True
            commands.append(p.DecideStop(reason))

    def _find(self, hook: int) -> _Save | None:
        return next((save for save in self._saves if save.hook == hook), None)


def _stop_reason(tally: Tally) -> str:
    votes = [vote for vote in tally.votes if not vote.earlier]
    return "; ".join(
        f"{vote.listener} voted to stop at step {vote.step}" + (f": {vote.reason}" if vote.reason else "")
        for vote in votes
    )


_SESSION_INPUTS: dict[type, Any] = {
    p.Opened: Machine._opened,
    p.ReportOwed: Machine._report_owed,
    p.BoundaryOpened: Machine._boundary_opened,
    p.SaveOffered: Machine._save_offered,
    p.OfferWithdrawn: Machine._offer_withdrawn,
    p.BoundaryClosed: Machine._boundary_closed,
    p.StopRequested: Machine._stop_requested,
    p.CloseRequested: Machine._close_requested,
    p.Closed: Machine._closed,
}
_SAVE_INPUTS: dict[type, Any] = {
    p.Prepared: Machine._prepared,
    p.PrepareFailed: Machine._prepare_failed,
    p.Written: Machine._written,
    p.WriteFailed: Machine._failed,
    p.Committed: Machine._committed,
    p.CommitFailed: Machine._failed,
    p.Reported: Machine._reported,
    p.Settled: Machine._settled,
}
