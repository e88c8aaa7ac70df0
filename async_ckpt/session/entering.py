"""Coming in: begin, restore, and the boundary that ends the entry."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.triggers import EverySecs, EverySteps
from async_ckpt.core.votes import Vote
from async_ckpt.listeners import is_stateful
from async_ckpt.runtime.callbacks import load_hooks
from async_ckpt.runtime.lane import Inside
from async_ckpt.saver import Restored
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Place
from async_ckpt.session.restoring import Restoring, check
from async_ckpt.system.threads import Outcome, finish, spawn

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from async_ckpt.session.host import SessionHost
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["enter"]


async def enter(session: MonitoredTrainingSession) -> None:
    """Bring the session from its construction to the end of its entry boundary.

    What was begun when an error leaves here is recorded in the places and gets its ``end`` from the
    exit, which the caller runs in every case.
    """
    host, places = session._host, session._places
    host.stateful_hooks = _stateful_hooks(places, session._dropped)
    hooks = [*_saver_hooks(places), *session._readers]
    for hook in hooks:
        check(hook)
    for place in places:
        if place.runner is not None:
            await place.runner.saver.open()
            if session._event_log is not None and (note := place.runner.saver._note) is not None:
                session._event_log.add(place.runner.directory, note)
    for place in places:
        await _begin(host, place)
    restoring = Restoring(hooks, host)
    await restoring.run()
    resumed: dict[Any, Restored] = {**restoring.resumed}
    host.global_step = next((restored.step for restored in resumed.values()), 0)
    session._restored, session._steps.owes_reading = restoring.first, bool(restoring.untaken)
    session._scheduler.tell(p.Opened(host.global_step, _specs(session, resumed)))
    await _load_listeners(session, resumed)
    host.emit(events.SessionBegan, step=host.global_step, resumed=bool(resumed))
    for place in places:
        if place.runner is None:
            what = f"{type(place.hook).__name__}.after_create_session"
            with Inside(what, place.hook, session):
                await place.hook.after_create_session(session)
    for place in places:
        owed = None if place.runner is None else resumed.get(place.hook)
        if place.runner is not None and owed is not None and owed.expects_report and owed.report is None:
            place.runner.owe_report(owed)
            await session._scheduler.owed_report(place.index, owed.step)
    session._boundary.look_up()
    # What a callable returns before anybody took the restored values must not be saved as theirs.
    await session._boundary.at_entry(leave_out=restoring.untaken if session._steps.owes_reading else ())
    await session._warm_up.start(places)


async def _begin(host: SessionHost, place: Place) -> None:
    if place.runner is not None:
        await _to_the_end(host, place.runner.callbacks.begin(), "begin")
        return
    with Inside(f"{type(place.hook).__name__}.begin", place.hook, host.facade):
        await place.hook.begin()
        place.begun = True


async def _to_the_end(host: SessionHost, work: Coroutine[Any, Any, None], what: str) -> None:
    """Carry ``work`` through: the callback that runs when the entry is cancelled finishes, like any other.

    Its error comes as a value, since a ``KeyboardInterrupt`` raised in a task kills the loop.
    """

    async def outcome() -> Outcome[None]:
        try:
            await work
        except BaseException as error:  # noqa: BLE001
            return Outcome(error=error)
        return Outcome()

    task = spawn(outcome(), name=f"async_ckpt {what}")
    try:
        ended = await finish(task)
    except asyncio.CancelledError:
        if (error := task.result().error) is not None:
            host.fail(error)
        raise
    ended.unwrap()


def _saver_hooks(places: list[Place]) -> list[CheckpointSaverHook]:
    return [place.hook for place in places if isinstance(place.hook, CheckpointSaverHook)]


def _stateful_hooks(places: list[Place], dropped: int) -> list[tuple[str, Any]]:
    # The chief-only hooks count even where they are dropped: the keys are those the chief saved under.
    found = []
    for position, place in enumerate(places, dropped):
        if place.runner is None and is_stateful(place.hook):
            name = getattr(place.hook, "name", None)
            named = isinstance(name, str) and name != ""
            found.append((str(name) if named else f"{type(place.hook).__name__}-{position}", place.hook))
    return found


# -- handing over ----------------------------------------------------------------------------


def _specs(session: MonitoredTrainingSession, resumed: dict[Any, Restored]) -> tuple[p.HookSpec, ...]:
    step, now = session.global_step, session.clock.monotonic()
    fresh = not resumed
    specs = []
    for place in session._places:
        hook, runner = place.hook, place.runner
        if runner is None or not isinstance(hook, CheckpointSaverHook):
            continue
        own = resumed.get(hook)
        trigger = hook.trigger_template
        if isinstance(trigger, EverySteps):
            trigger = replace(trigger, last=step)
        elif isinstance(trigger, EverySecs):
            trigger = replace(trigger, last=now)
        if own is not None:
            runner.latest = own.checkpoint
            runner.earlier_votes = _earlier_votes(own)
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


def _earlier_votes(restored: Restored) -> tuple[Vote, ...]:
    """The votes in a report; it was written by somebody else, so what is no vote is left out."""
    votes = []
    for entry in restored.votes:
        if not isinstance(entry, dict):
            continue
        listener, step, reason = (entry.get(name) for name in ("listener", "step", "reason"))
        if isinstance(listener, str) and isinstance(step, int) and isinstance(reason, str | None):
            votes.append(Vote(listener, step, reason, earlier=True))
    return tuple(votes)


async def _load_listeners(session: MonitoredTrainingSession, resumed: dict[Any, Restored]) -> None:
    """Hand states back: each saver hook's listeners theirs, the session's hooks those of the first."""
    source = next(iter(resumed), None)
    first = resumed.get(source)
    if first is not None and source in session._readers:
        await _to_the_end(session._host, load_hooks(session._host, first), "load_state_dict")
    for place in session._places:
        own = None if place.runner is None else resumed.get(place.hook)
        if place.runner is not None and own is not None:
            loading = place.runner.callbacks.load_states(own, with_hooks=own is first)
            await _to_the_end(session._host, loading, "load_state_dict")
