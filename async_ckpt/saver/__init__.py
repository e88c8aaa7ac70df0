"""The saver: saves a state into a directory in the background, and reads it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt.system.lazily import lazily as _lazily

if TYPE_CHECKING:
    from async_ckpt.saver.engine import Engine as Engine
    from async_ckpt.saver.pending import PendingSave as PendingSave
    from async_ckpt.saver.records import Checkpoint as Checkpoint
    from async_ckpt.saver.records import Restored as Restored
    from async_ckpt.saver.records import SaveProgress as SaveProgress
    from async_ckpt.saver.records import Skipped as Skipped
    from async_ckpt.saver.records import VerifyResult as VerifyResult
    from async_ckpt.saver.saver import Saver as Saver
    from async_ckpt.saver.watching import CheckpointWatch as CheckpointWatch
    from async_ckpt.saver.watching import watch_checkpoints as watch_checkpoints

_PLACES = {
    "engine": ("Engine",),
    "pending": ("PendingSave",),
    "records": ("Checkpoint", "Restored", "SaveProgress", "Skipped", "VerifyResult"),
    "saver": ("Saver",),
    "watching": ("CheckpointWatch", "watch_checkpoints"),
}
"""The names of each module; the imports above say the same to type checkers."""

__all__ = [
    "Checkpoint",
    "CheckpointWatch",
    "Engine",
    "PendingSave",
    "Restored",
    "SaveProgress",
    "Saver",
    "Skipped",
    "VerifyResult",
    "watch_checkpoints",
]

__getattr__, __dir__ = _lazily(__name__, _PLACES)
