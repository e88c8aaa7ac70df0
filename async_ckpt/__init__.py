"""Asyncio-native checkpointing for training services: public names, nothing else.

Each is imported when it is first asked for, so that a command that needs few of them starts at once.
"""

from __future__ import annotations

import typing

from async_ckpt.system.lazily import lazily as _lazily

if typing.TYPE_CHECKING:
    from async_ckpt.core.retention import BestN as BestN
    from async_ckpt.core.retention import EveryNHours as EveryNHours
    from async_ckpt.core.retention import EveryNSteps as EveryNSteps
    from async_ckpt.core.retention import LatestN as LatestN
    from async_ckpt.core.votes import Vote as Vote
    from async_ckpt.core.votes import all_of as all_of
    from async_ckpt.core.votes import any_of as any_of
    from async_ckpt.core.votes import at_least as at_least
    from async_ckpt.errors import CheckpointError as CheckpointError
    from async_ckpt.errors import DamagedCheckpointError as DamagedCheckpointError
    from async_ckpt.errors import DirectoryLockedError as DirectoryLockedError
    from async_ckpt.errors import FormatVersionError as FormatVersionError
    from async_ckpt.errors import ListenerError as ListenerError
    from async_ckpt.errors import NoCheckpointError as NoCheckpointError
    from async_ckpt.errors import ProtocolError as ProtocolError
    from async_ckpt.errors import RestoreError as RestoreError
    from async_ckpt.errors import SaveError as SaveError
    from async_ckpt.errors import SessionStopped as SessionStopped
    from async_ckpt.errors import StructureMismatchError as StructureMismatchError
    from async_ckpt.errors import UnsupportedLeafError as UnsupportedLeafError
    from async_ckpt.hooks import LoggingHook as LoggingHook
    from async_ckpt.hooks import NanGuardHook as NanGuardHook
    from async_ckpt.hooks import SessionRunHook as SessionRunHook
    from async_ckpt.hooks import StepCounterHook as StepCounterHook
    from async_ckpt.hooks import StepRun as StepRun
    from async_ckpt.hooks import StopAtStepHook as StopAtStepHook
    from async_ckpt.listeners import CheckpointSaverListener as CheckpointSaverListener
    from async_ckpt.listeners import Stop as Stop
    from async_ckpt.saver import Checkpoint as Checkpoint
    from async_ckpt.saver import Engine as Engine
    from async_ckpt.saver import PendingSave as PendingSave
    from async_ckpt.saver import Restored as Restored
    from async_ckpt.saver import Saver as Saver
    from async_ckpt.saver import watch_checkpoints as watch_checkpoints
    from async_ckpt.saver_hook import CheckpointSaverHook as CheckpointSaverHook
    from async_ckpt.session import MonitoredTrainingSession as MonitoredTrainingSession

_PLACES = {
    "core.retention": ("BestN", "EveryNHours", "EveryNSteps", "LatestN"),
    "core.votes": ("Vote", "all_of", "any_of", "at_least"),
    "errors": (
        "CheckpointError",
        "DamagedCheckpointError",
        "DirectoryLockedError",
        "FormatVersionError",
        "ListenerError",
        "NoCheckpointError",
        "ProtocolError",
        "RestoreError",
        "SaveError",
        "SessionStopped",
        "StructureMismatchError",
        "UnsupportedLeafError",
    ),
    "hooks": (
        "LoggingHook",
        "NanGuardHook",
        "SessionRunHook",
        "StepCounterHook",
        "StepRun",
        "StopAtStepHook",
    ),
    "listeners": ("CheckpointSaverListener", "Stop"),
    "saver": ("Checkpoint", "Engine", "PendingSave", "Restored", "Saver", "watch_checkpoints"),
    "saver_hook": ("CheckpointSaverHook",),
    "session": ("MonitoredTrainingSession",),
}
"""The names of each module; the imports above say the same to type checkers."""

__all__ = [
    "BestN",
    "Checkpoint",
    "CheckpointError",
    "CheckpointSaverHook",
    "CheckpointSaverListener",
    "DamagedCheckpointError",
    "DirectoryLockedError",
    "Engine",
    "EveryNHours",
    "EveryNSteps",
    "FormatVersionError",
    "LatestN",
    "ListenerError",
    "LoggingHook",
    "MonitoredTrainingSession",
    "NanGuardHook",
    "NoCheckpointError",
    "PendingSave",
    "ProtocolError",
    "RestoreError",
    "Restored",
    "SaveError",
    "Saver",
    "SessionRunHook",
    "SessionStopped",
    "StepCounterHook",
    "StepRun",
    "Stop",
    "StopAtStepHook",
    "StructureMismatchError",
    "UnsupportedLeafError",
    "Vote",
    "all_of",
    "any_of",
    "at_least",
    "watch_checkpoints",
]

__getattr__, __dir__ = _lazily(__name__, _PLACES)
