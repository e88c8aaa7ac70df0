"""What a saver hands out: frozen records, units on every field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from async_ckpt.system.frames import let_frames_go

if TYPE_CHECKING:
    from collections.abc import Mapping

    from async_ckpt.errors import RestoreError
    from async_ckpt.storage.manifest import Report

__all__ = ["Checkpoint", "Restored", "SavePhase", "SaveProgress", "Skipped", "VerifyResult"]

SavePhase = Literal["queued", "staging", "writing", "written", "committing", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class SaveProgress:
    """How far a save is.

    Attributes:
        phase: ``"queued"``, ``"staging"`` (the state is being copied), ``"writing"``, ``"written"`` (every
            byte is on disk and the rename is still to come), ``"committing"``, ``"done"``, ``"failed"``
            or ``"cancelled"``.
        bytes_done: Bytes handed to the disk so far.
        bytes_total: Bytes of all tensor files; 0 until the layout is known.
    """

    phase: SavePhase
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A durable checkpoint.

    Attributes:
        step: Its step.
        path: Its directory.
        bytes: Size of its tensor files in bytes.
        metrics: The metrics of the save, overlaid with those reported about it later.
        metadata: The plain values given at the save.
        created: Wall clock when the save was asked for, in seconds since the epoch.
    """

    step: int
    path: str
    bytes: int
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    created: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """A newer checkpoint that was passed over.

    Attributes:
        step: Its step.
        reason: What is wrong with it; without a traceback, which would keep what was read of it in memory.
    """

    step: int
    reason: RestoreError

    def __post_init__(self) -> None:
        let_frames_go(self.reason)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was read back.

    Attributes:
        step: The step of the checkpoint.
        state: The state: ``into`` itself, filled, or fresh containers.
        checkpoint: The checkpoint it came from.
        skipped: Newer checkpoints that were passed over, newest first.
        listeners: States of listeners and hooks by key; the report's, where there is a valid one.
        votes: The stop votes in its report.
        expects_report: Whether its manifest says that a report was to follow.
        report: The report, or None if there is none that is valid.
        report_error: Why a report that is there does not count, or None.
    """

    step: int
    state: Any
    checkpoint: Checkpoint
    skipped: tuple[Skipped, ...] = ()
    listeners: Mapping[str, Any] = field(default_factory=dict[str, Any])
    votes: tuple[Any, ...] = ()
    expects_report: bool = False
    report: Report | None = None
    report_error: RestoreError | None = None


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """A checkpoint of which every byte was read and is the byte that was saved.

    Attributes:
        step: Its step.
        files: Names of its tensor files.
        bytes: Bytes read from them.
        report_error: What is wrong with its report, which does not make the checkpoint invalid, or None.
    """

    step: int
    files: tuple[str, ...]
    bytes: int
    report_error: RestoreError | None = None
