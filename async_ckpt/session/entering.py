"""Coming in: begin, restore, and the boundary that ends the entry."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.triggers import EverySecs, EverySteps
from async_ckpt.core.votes import Vote
from async_ckpt.errors import (
    DamagedCheckpointError,
    FormatVersionError,
    NoCheckpointError,
    RestoreError,
)
from async_ckpt.listeners import is_stateful
from async_ckpt.saver import Restored, Saver
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Place, inside_user_code
from async_ckpt.state.into import check_restorable
from async_ckpt.system.threads import finish, spawn

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["enter"]


async def enter(session: MonitoredTrainingSession) -> None:
    """Bring the session from its construction to the end of its entry boundary.

    What was begun when an error leaves here is recorded in the places and gets its ``end`` from the
    exit, which the caller runs in every case.
    """
    host, places = session._host, session._places  # noqa: SLF001 - one class in several files
    host.stateful_hooks = _stateful_hooks(places)
    for place in places:
        if place.runner is not None:
            await place.runner.saver.open()
    for place in places:
        await _begin(place)
    restored = await _restore(session)
    resumed = _own(restored)
    first = next(iter(resumed.values()), None) or next(iter(restored.values()), None)
    host.global_step = next((r.step for r in resumed.values()), 0)
    session._set_restored(first, owes_reading=_owes_reading(restored))  # noqa: SLF001
    session._scheduler.tell(p.Opened(host.global_step, _specs(session, resumed)))  # noqa: SLF001
    await _load_listeners(places, restored, first)
    host.emit(events.SessionBegan, step=host.global_step, resumed=bool(resumed))
    for place in places:
        if place.runner is None:
            with inside_user_code(f"{type(place.hook).__name__}.after_create_session", place.hook):
                await place.hook.after_create_session(session)
    for place in places:
        owed = resumed.get(place.hook)
        if place.runner is not None and owed is not None and owed.expects_report and owed.report is None:
            place.runner.owe_report(owed)
            await session._scheduler.owed_report(place.index, owed.step)  # noqa: SLF001
    await session._boundary.at_entry()  # noqa: SLF001


async def _begin(place: Place) -> None:
    if place.runner is not None:
        # The callback that runs when the entry is cancelled finishes, like every callback.
        await finish(spawn(place.runner.begin(), name="async_ckpt begin"))
        return
    with inside_user_code(f"{type(place.hook).__name__}.begin", place.hook):
        await place.hook.begin()
    place.begun = True


def _stateful_hooks(places: list[Place]) -> list[tuple[str, Any]]:
    found = []
    for position, place in enumerate(places):
        if place.runner is None and is_stateful(place.hook):
            name = getattr(place.hook, "name", None)
            named = isinstance(name, str) and name != ""
            found.append((str(name) if named else f"{type(place.hook).__name__}-{position}", place.hook))
    return found


# -- restore ---------------------------------------------------------------------------------


async def _restore(session: MonitoredTrainingSession) -> dict[Any, Restored]:
    """Restore every saver hook from the newest valid step over all of them.

    Returns what was restored, by hook. A warm start is in it too; :func:`_own` tells them apart.
    """
    hooks = [pl.hook for pl in session._places if isinstance(pl.hook, CheckpointSaverHook)]  # noqa: SLF001
    hooks = [hook for hook in (*hooks, *session._readers) if hook.restores]  # noqa: SLF001
    rejected: dict[CheckpointSaverHook, dict[int, RestoreError]] = {hook: {} for hook in hooks}
    listed = {hook: set(await hook.saver.steps()) for hook in hooks}
    for hook in hooks:
        if hook.restores_in_place and (listed[hook] or hook.restore_path is not None):
            check_restorable(hook.state)
    restored: dict[Any, Restored] = {}
    while True:
        step = _winner(hooks, listed, rejected)
        if step is None:
            break
        try:
            restored = await _restore_step(session, hooks, listed, rejected, step)
        except _Rejected:
            continue
        break
    if step is None:
        for hook in hooks:
            if rejected[hook]:
                raise _none_valid(hook, rejected[hook])
            if hook.restore_path is not None:
                restored[hook] = await _warm_start(hook)
    for hook, result in restored.items():
        session._host.emit(  # noqa: SLF001
            events.CheckpointRestored, step=result.step, path=str(result.checkpoint.path)
        )
    return restored


class _Rejected(Exception):  # noqa: N818 - never leaves this file
    """The step turned out to be damaged for a hook; look for the next one."""


def _winner(
    hooks: list[CheckpointSaverHook],
    listed: dict[CheckpointSaverHook, set[int]],
    rejected: dict[CheckpointSaverHook, dict[int, RestoreError]],
) -> int | None:
    explicit = {hook.restore_step for hook in hooks if hook.restore_step is not None}
    if len(explicit) > 1:
        message = f"saver hooks ask for different steps: {', '.join(map(str, sorted(explicit)))}"
        raise ValueError(message)
    if explicit:
        return next(iter(explicit))
    left = [max(steps) for hook in hooks if (steps := listed[hook] - rejected[hook].keys())]
    return max(left, default=None)


async def _restore_step(
    session: MonitoredTrainingSession,
    hooks: list[CheckpointSaverHook],
    listed: dict[CheckpointSaverHook, set[int]],
    rejected: dict[CheckpointSaverHook, dict[int, RestoreError]],
    step: int,
) -> dict[Any, Restored]:
    restored: dict[Any, Restored] = {}
    for hook in hooks:
        if step not in listed[hook] or step in rejected[hook]:
            continue
        try:
            restored[hook] = await _read(hook, hook.saver, step)
        except (DamagedCheckpointError, FormatVersionError) as error:
            if hook.restore_step is not None:
                raise
            rejected[hook][step] = error
            path = error.path or hook.saver.location
            session._host.emit(  # noqa: SLF001
                events.CheckpointRejected, step=step, path=path, reason=str(error)
            )
            session._host.warn(f"checkpoint of step {step} passed over: {error}")  # noqa: SLF001
            raise _Rejected from error
    states = [hook.state for hook in restored]
    for hook in hooks:
        if hook in restored or any(hook.state is state for state in states):
            continue
        if hook.restore_step == step:
            message = f"{hook.saver.location} holds no checkpoint of step {step}"
            raise NoCheckpointError(message, step=step, path=hook.saver.location)
        if listed[hook]:
            message = (
                f"{hook.saver.location} has checkpoints, but none of step {step}, which the session "
                "resumes from; restore=None would start this hook's state afresh"
            )
            raise RestoreError(message, step=step, path=hook.saver.location)
    return restored


async def _read(hook: CheckpointSaverHook, saver: Saver, step: int) -> Restored:
    if hook.restores_in_place:
        return await saver.restore(step, into=hook.state)
    restored = await saver.restore(step)
    if hook.load is not None:
        with inside_user_code("load", hook):
            result = hook.load(restored.state)
            if inspect.isawaitable(result):
                await result
    return restored


async def _warm_start(hook: CheckpointSaverHook) -> Restored:
    assert hook.restore_path is not None  # noqa: S101
    directory, step = hook.restore_path
    async with Saver(directory) as other:
        if step is None:
            latest = await other.latest()
            if latest is None:
                message = f"{directory} holds no checkpoint to start from"
                raise NoCheckpointError(message, path=str(directory))
            step = latest.step
        return await _read(hook, other, step)


def _none_valid(hook: CheckpointSaverHook, rejected: dict[int, RestoreError]) -> DamagedCheckpointError:
    reasons = "; ".join(f"step {step}: {error}" for step, error in sorted(rejected.items(), reverse=True))
    message = f"{hook.saver.location} holds checkpoints, and none of them is valid ({reasons})"
    error = DamagedCheckpointError(message, step=max(rejected), path=hook.saver.location)
    error.__cause__ = rejected[max(rejected)]
    return error


def _own(restored: dict[Any, Restored]) -> dict[Any, Restored]:
    """Leave out the warm starts: those are new runs."""
    return {hook: r for hook, r in restored.items() if _is_own(hook, r)}


def _is_own(hook: CheckpointSaverHook, restored: Restored) -> bool:
    return str(restored.checkpoint.path).startswith(str(hook.saver.location))


def _owes_reading(restored: dict[Any, Restored]) -> bool:
    return any(hook.is_callable and hook.load is None for hook in restored)


# -- handing over ----------------------------------------------------------------------------


def _specs(session: MonitoredTrainingSession, resumed: dict[Any, Restored]) -> tuple[p.HookSpec, ...]:
    step, now = session.global_step, session.clock.monotonic()
    fresh = not resumed
    specs = []
    for place in session._places:  # noqa: SLF001
        hook, runner = place.hook, place.runner
        if runner is None or not isinstance(hook, CheckpointSaverHook):
            continue
        own = resumed.get(hook)
        trigger = hook.trigger_template
        if isinstance(trigger, EverySteps | EverySecs):
            trigger = replace(trigger, last=step if isinstance(trigger, EverySteps) else now)
        if own is not None:
            runner.latest = own.checkpoint
            runner.earlier_votes = tuple(
                Vote(str(v["listener"]), int(v["step"]), v.get("reason"), earlier=True) for v in own.votes
            )
        runner.abandon_above = step
        specs.append(
            p.HookSpec(
                trigger=trigger,
                when_busy=hook.when_busy,
                blocking=hook.blocking,
                honor_stop=hook.honor_stop,
                rule=hook.rule,
                voters=hook.voters,
                earlier_votes=runner.earlier_votes,
                durable=None if own is None else own.step,
                initial=hook.initial_save == "always"
                or (hook.initial_save == "fresh" and fresh and step == 0),
            )
        )
    return tuple(specs)


async def _load_listeners(places: list[Place], restored: dict[Any, Restored], first: Restored | None) -> None:
    """Hand states back: each saver hook's listeners theirs, the session's hooks those of the first."""
    for place in places:
        own = restored.get(place.hook)
        if place.runner is not None and own is not None and _is_own(place.hook, own):  # type: ignore[arg-type]
            await finish(
                spawn(
                    place.runner.load_states(own, with_hooks=own is first), name="async_ckpt load_state_dict"
                )
            )
