"""What the demo knows about its session: events folded into a few plain fields."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from async_ckpt import Vote, events

__all__ = ["Saved", "View"]

REMEMBERED = 48


@dataclass(slots=True)
class Saved:
    """One checkpoint that is durable.

    Attributes:
        step: Its step.
        bytes: Its size on disk.
        seconds: From the request to durable.
        accuracy: On the held-out scans, from 0 to 1, once it was measured.
    """

    step: int
    bytes: int
    seconds: float
    accuracy: float | None = None


@dataclass(slots=True)
class View:
    """The session as a display shows it.

    Attributes:
        directory: Where the checkpoints are, as the user wrote it.
        last_step: The step at which the run ends by itself.
        goal: The accuracy it stops at, from 0 to 1, or 0.
        step: Steps done.
        loss: Of the newest batch.
        accuracies: Of the newest checkpoints, oldest first.
        resumed: Step this run was resumed from, or None.
        saving: Step of the save under way, or None.
        bytes_done: Bytes of it that are with the disk.
        bytes_total: Bytes it will have.
        held: Seconds that the newest save held the training.
        last: The newest durable checkpoint.
        kept: Steps that are on disk, ascending.
        trouble: What went wrong last, or None.
        votes: Stop votes of this run, as lines.
        stopping: Why the session stops, or None.
        signals: Signals seen.
    """

    directory: str
    last_step: int
    goal: float
    step: int = 0
    loss: float | None = None
    accuracies: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    resumed: int | None = None
    saving: int | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    held: float = 0.0
    last: Saved | None = None
    kept: list[int] = field(default_factory=list[int])
    trouble: str | None = None
    votes: list[str] = field(default_factory=list[str])
    stopping: str | None = None
    signals: int = 0

    def observe(self, event: events.Event) -> None:
        """Take one event in; kinds it does not know are passed over."""
        match event:
            case events.SessionBegan(step=step, resumed=resumed):
                self.step = step
                self.resumed = step if resumed else None
            case events.CheckpointRejected(step=step, reason=reason):
                self.trouble = f"checkpoint {step} passed over: {reason}"
            case events.StopVoted(listener=listener, step=step, reason=why):
                self.votes.append(f"{listener} at step {step}: {why or 'stop'}")
            case events.StopDecided(reason=reason):
                self.stopping = reason
            case events.SignalReceived(count=count):
                self.signals = count
            case _:
                self._observe_save(event)

    def _observe_save(self, event: events.Event) -> None:
        match event:
            case events.SaveRequested(step=step):
                self.saving, self.bytes_done, self.bytes_total = step, 0, 0
            case events.SaveStaged(bytes=size, seconds=seconds):
                self.bytes_total, self.held = size, seconds
            case events.SaveProgress(bytes_done=done, bytes_total=total):
                self.bytes_done, self.bytes_total = done, total
            case events.SaveCommitted(step=step, bytes=size, seconds=seconds):
                self.saving = None
                self.bytes_done = self.bytes_total
                self.last = Saved(step, size, seconds)
                self.kept = sorted({*self.kept, step})
            case events.SaveFailed(step=step, reason=reason) | events.SaveUnknown(step=step, reason=reason):
                self.saving = None
                self.trouble = f"save of step {step}: {reason.removeprefix(f'step {step}: ')}"
            case events.CheckpointDeleted(step=step):
                self.kept = [kept for kept in self.kept if kept != step]
            case events.CheckpointsAbandoned(steps=steps):
                self.kept = [kept for kept in self.kept if kept not in steps]
            case _:
                pass

    def inherit(self, votes: Iterable[Vote], steps: Iterable[int]) -> None:
        """Take over what earlier runs left: their votes, which stop nobody now, and the steps on disk."""
        earlier = [f"{v.listener} at step {v.step}, in an earlier run" for v in votes if v.earlier]
        self.votes = [*earlier, *self.votes]
        self.kept = sorted(steps)

    def measured(self, step: int, accuracy: float) -> Saved | None:
        """Note the accuracy of checkpoint ``step``.

        Returns:
            Its record if it was saved in this run; None if an earlier run saved it.
        """
        self.accuracies.append(accuracy)
        if self.last is None or self.last.step != step:
            return None
        self.last.accuracy = accuracy
        return self.last
