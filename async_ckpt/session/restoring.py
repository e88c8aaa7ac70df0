"""Restore on entry: the newest step that is valid for everyone who has it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from async_ckpt import events
from async_ckpt.errors import (
    DamagedCheckpointError,
    FormatVersionError,
    NoCheckpointError,
    RestoreError,
)
from async_ckpt.runtime.lane import Inside
from async_ckpt.saver import Restored, Saver, Skipped
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.state.into import check_restorable
from async_ckpt.system.frames import let_frames_go

if TYPE_CHECKING:
    from async_ckpt.session.host import SessionHost

__all__ = ["Restoring", "check"]


class Restoring:
    """Looks for the step to resume from, over all saver hooks that restore, and reads it.

    Attributes:
        resumed: What was restored from a hook's own directory, by hook.
        started: What was restored from another run (a warm start), by hook.
    """

    def __init__(self, hooks: Sequence[CheckpointSaverHook], host: SessionHost) -> None:
        self.resumed: dict[CheckpointSaverHook, Restored] = {}
        self.started: dict[CheckpointSaverHook, Restored] = {}
        self._hooks = [hook for hook in hooks if hook.restores]
        self._host = host
        self._listed: dict[CheckpointSaverHook, set[int]] = {}
        self._rejected: dict[CheckpointSaverHook, dict[int, RestoreError]] = {h: {} for h in self._hooks}

    async def run(self) -> None:
        """Restore every hook that has something to restore.

        Raises:
            UnsupportedLeafError: A state could not be filled in place.
            RestoreError: See :class:`CheckpointSaverHook`, ``restore``.
            ValueError: Two hooks ask for different steps.
        """
        for hook in self._hooks:
            check(hook)
            self._listed[hook] = set(await hook.saver._store.steps())
        while (step := self._best()) is not None:
            if await self._read_everywhere(step):
                self._refuse_left_behind(step)
                break
        else:
            self.resumed.clear()
            self._refuse_damaged()
        for hook in self._hooks:
            shares = any(hook.state is other.state for other in self.resumed)
            if hook.restore_path is not None and not self._listed[hook] and not shares:
                await self._start_warm(hook, *hook.restore_path)
        for hook, restored in self.all().items():
            del hook
            self._host.emit(events.CheckpointRestored, step=restored.step, path=restored.checkpoint.path)

    def all(self) -> dict[CheckpointSaverHook, Restored]:
        """Both kinds."""
        return {**self.resumed, **self.started}

    @property
    def first(self) -> Restored | None:
        """What ``session.restored`` shows."""
        return next(iter(self.all().values()), None)

    @property
    def untaken(self) -> tuple[CheckpointSaverHook, ...]:
        """The hooks whose state is a callable, and whose restored values nobody has been given."""
        return tuple(hook for hook in self.all() if hook.is_callable and hook.load is None)

    def _best(self) -> int | None:
        explicit = {hook.restore_step for hook in self._hooks if hook.restore_step is not None}
        if len(explicit) > 1:
            message = f"saver hooks ask for different steps: {', '.join(map(str, sorted(explicit)))}"
            raise ValueError(message)
        left = [
            max(steps) for hook in self._hooks if (steps := self._listed[hook] - self._rejected[hook].keys())
        ]
        return explicit.pop() if explicit else max(left, default=None)

    def _common_step(self) -> str:
        """Words for the newest step that every hook with checkpoints has, if there is one."""
        listed = [steps for steps in self._listed.values() if steps]
        common = max(set.intersection(*listed), default=None)
        return "" if common is None else f", and restore={common} is the newest step that every hook has"

    async def _read_everywhere(self, step: int) -> bool:
        """Read ``step`` for every hook that has it; False if it turned out to be damaged for one."""
        self.resumed.clear()
        for hook in self._hooks:
            if step not in self._listed[hook] or step in self._rejected[hook]:
                continue
            try:
                restored = await _read(hook, hook.saver, step)
                passed_over = sorted(self._rejected[hook].items(), reverse=True)
                skipped = tuple(Skipped(newer, why) for newer, why in passed_over)
                self.resumed[hook] = replace(restored, skipped=skipped)
            except NoCheckpointError:
                # Deleted since it was listed, by the writer this session only reads from.
                self._listed[hook].discard(step)
                return False
            except (DamagedCheckpointError, FormatVersionError) as error:
                if hook.restore_step is not None:
                    raise
                self._reject(hook, step, error)
                return False
        return True

    def _reject(self, hook: CheckpointSaverHook, step: int, error: RestoreError) -> None:
        let_frames_go(error)
        self._rejected[hook][step] = error
        path = error.path or hook.saver.location
        self._host.emit(events.CheckpointRejected, step=step, path=path, reason=str(error))
        self._host.warn(f"the checkpoint of step {step} was passed over: {error}")

    def _refuse_left_behind(self, step: int) -> None:
        """A hook that has checkpoints, but not this one, would train on with a state of another step."""
        states = [hook.state for hook in self.resumed]
        for hook in self._hooks:
            if hook in self.resumed or any(hook.state is state for state in states):
                continue
            location = hook.saver.location
            if hook.restore_step == step:
                message = f"{location} holds no checkpoint of step {step}"
                raise NoCheckpointError(message, step=step, path=location)
            if self._listed[hook]:
                message = (
                    f"{location} has checkpoints, but no valid one of step {step}, which the session "
                    "resumes from; restore=None would start this hook's state afresh" + self._common_step()
                )
                raise RestoreError(message, step=step, path=location)

    def _refuse_damaged(self) -> None:
        for hook in self._hooks:
            rejected = self._rejected[hook]
            if rejected:
                reasons = "; ".join(f"step {s}: {e}" for s, e in sorted(rejected.items(), reverse=True))
                message = f"{hook.saver.location} holds checkpoints, and none of them is valid ({reasons})"
                newest = max(rejected)
                newer = all(isinstance(error, FormatVersionError) for error in rejected.values())
                kind = FormatVersionError if newer else DamagedCheckpointError
                raise kind(message, step=newest, path=hook.saver.location) from rejected[newest]

    async def _start_warm(self, hook: CheckpointSaverHook, directory: Path, step: int | None) -> None:
        async with Saver(directory) as other:
            self.started[hook] = restored = await _read(hook, other, step)
        for skipped in restored.skipped:
            self._reject(hook, skipped.step, skipped.reason)


def check(hook: CheckpointSaverHook) -> None:
    """Refuse a state that could not be saved, or not be filled where it stands if it has to be.

    Raises:
        UnsupportedLeafError: It holds something of the kind; ``path`` says where.
    """
    if not hook.is_callable:
        check_restorable(hook.state, in_place=hook.restores and hook.restores_in_place)


async def _read(hook: CheckpointSaverHook, saver: Saver, step: int | None) -> Restored:
    if hook.restores_in_place:
        return await saver.restore(step, into=hook.state)
    restored = await saver.restore(step)
    if hook.load is not None:
        with Inside("load", hook, hook.session):
            result = hook.load(restored.state)
            if inspect.isawaitable(result):
                await result
    return restored
