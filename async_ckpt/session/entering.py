"""Coming in: begin, restore, and the boundary that ends the entry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from async_ckpt import events
from async_ckpt.core import protocol as p
from async_ckpt.core.triggers import EverySecs, EverySteps
from async_ckpt.core.votes import Vote
from async_ckpt.listeners import is_stateful
from async_ckpt.saver import Restored
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Place, inside_user_code
from async_ckpt.session.restoring import Restoring, check
from async_ckpt.system.threads import finish, spawn

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["enter"]


async def enter(session: MonitoredTrainingSession) -> None:
    """Bring the session from its construction to the end of its entry boundary.

    What was begun when an error leaves here is recorded in the places and gets its ``end`` from the
    exit, which the caller runs in every case.
    """
    host, places = session._host, session._places
    host.stateful_hooks = _stateful_hooks(places)
    hooks = [*_saver_hooks(places), *session._readers]
    for hook in hooks:
        check(hook)
    for place in places:
        if place.runner is not None:
            await place.runner.saver.open()
    for place in places:
        await _begin(place)
    restoring = Restoring(hooks, host)
    await restoring.run()
    resumed: dict[Any, Restored] = {**restoring.resumed}
    host.global_step = next((restored.step for restored in resumed.values()), 0)
    session._set_restored(restoring.first, untaken=bool(restoring.untaken))
    session._scheduler.tell(p.Opened(host.global_step, _specs(session, resumed)))
    await _load_listeners(places, resumed)
    host.emit(events.SessionBegan, step=host.global_step, resumed=bool(resumed))
    for place in places:
        if place.runner is None:
            with inside_user_code(f"{type(place.hook).__name__}.after_create_session", place.hook):
                await place.hook.after_create_session(session)
    for place in places:
        owed = resumed.get(place.hook)
        if place.runner is not None and owed is not None and owed.expects_report and owed.report is None:
            place.runner.owe_report(owed)
            await session._scheduler.owed_report(place.index, owed.step)
    # What a callable returns before anybody took the restored values must not be saved as theirs.
    await session._boundary.at_entry(leave_out=restoring.untaken if session._owes_reading else ())


async def _begin(place: Place) -> None:
    if place.runner is not None:
        # The callback that runs when the entry is cancelled finishes, like every callback.
        await finish(spawn(place.runner.begin(), name="async_ckpt begin"))
        return
    with inside_user_code(f"{type(place.hook).__name__}.begin", place.hook):
        await place.hook.begin()
    place.begun = True


def _saver_hooks(places: list[Place]) -> list[CheckpointSaverHook]:
    return [place.hook for place in places if isinstance(place.hook, CheckpointSaverHook)]


def _stateful_hooks(places: list[Place]) -> list[tuple[str, Any]]:
    found = []
    for position, place in enumerate(places):
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


async def _load_listeners(places: list[Place], resumed: dict[Any, Restored]) -> None:
    """Hand states back: each saver hook's listeners theirs, the session's hooks those of the first."""
    first = next(iter(resumed.values()), None)
    for place in places:
        own = resumed.get(place.hook)
        if place.runner is not None and own is not None:
            loading = place.runner.load_states(own, with_hooks=own is first)
            await finish(spawn(loading, name="async_ckpt load_state_dict"))
