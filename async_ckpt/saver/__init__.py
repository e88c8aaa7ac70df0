"""The saver: saves a state into a directory in the background, and reads it back."""

from __future__ import annotations

from async_ckpt.saver.engine import Engine
from async_ckpt.saver.pending import PendingSave
from async_ckpt.saver.records import Checkpoint, Restored, SaveProgress, Skipped, VerifyResult
from async_ckpt.saver.saver import Saver
from async_ckpt.saver.watching import CheckpointWatch, watch_checkpoints

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
