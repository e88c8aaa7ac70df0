"""One schedule played and judged: the grammar of the callbacks, and what is in the stores afterwards."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager

from async_ckpt import Saver, events
from async_ckpt.testing import run_sim
from tests.determinism.grammar import check
from tests.determinism.replay import command
from tests.determinism.scenario import Family, Scenario, draw
from tests.determinism.world import Run, play

__all__ = ["checked", "judge_preparing", "judge_stores", "judge_votes", "quiet"]


@contextmanager
def quiet() -> Generator[None]:
    """Say nothing of failures, which are the point here: warnings and log lines would only cost time."""
    logging.disable(logging.CRITICAL)
    # Each run leaves cycles behind; looking through what the test run itself holds is what makes them dear.
    gc.collect()
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gc.unfreeze()
        logging.disable(logging.NOTSET)


def checked(
    family: Family,
    number: int,
    seed: int,
    cancel_at: int | Collection[int] | None = None,
    *,
    stores: bool = False,
) -> Run:
    """One schedule, with the grammar checked; a failure says how to see it again.

    Args:
        family: Of the scenario.
        number: Of the scenario.
        seed: Of the schedule.
        cancel_at: The steps of the main task at which it is cancelled.
        stores: Look at what is in the stores, too.
    """
    try:
        scenario = draw(family, number)
        run = play(scenario, seed, cancel_at=cancel_at)
        check(run.log, run.rules)
        judge_votes(run, scenario)
        judge_preparing(run, scenario)
        if stores:
            judge_stores(run)
    except BaseException as error:
        error.add_note(command(family, number, seed, cancel_at))
        raise
    return run


def judge_votes(run: Run, scenario: Scenario) -> None:
    """Every vote counts, whichever save it followed."""
    cast: dict[str, int] = {}
    for call in run.log:
        if call.phase == "after_save" and call.edge == "done" and call.step is not None:
            vote_at = scenario.hooks[call.hook].listeners[call.listener].vote_at
            if vote_at is not None and call.step >= vote_at:
                cast.setdefault(f"{call.hook}.{call.listener}", call.step)
    assert run.votes == set(cast.items()), f"votes {run.votes}, cast {cast}"


def judge_preparing(run: Run, scenario: Scenario) -> None:
    """Where an error of a listener is raised, nothing is saved that a ``before_save`` did not let pass."""
    failed: dict[int, int | None] = {}
    for call in run.log:
        if scenario.hooks[call.hook].on_listener_error == "log":
            continue
        if call.phase == "before_save":
            if call.edge == "failed":
                failed[call.hook] = call.step
            elif call.edge == "start" and call.listener == 0:
                failed.pop(call.hook, None)
        elif call.phase == "after_save":
            wrong = call.hook in failed and failed[call.hook] == call.step
            assert not wrong, f"hook {call.hook} saved step {call.step} after a before_save that failed"


def judge_stores(run: Run) -> None:
    """What was told of each save is what is there: committed ones, whole, and nothing of a failed one."""
    assert not run.left, f"saves had ended, and their attempts were still there: {run.left}"
    for hook, store in enumerate(run.stores):
        committed: set[int] = set()
        unknown: set[int] = set()
        for event in run.outcomes:
            if isinstance(event, events.SaveCommitted) and event.directory == store.location:
                committed.add(event.step)
            elif isinstance(event, events.SaveUnknown) and event.directory == store.location:
                unknown.add(event.step)

        found = run_sim(lambda store=store: _verified(store))  # type: ignore[misc]
        assert committed <= found, f"hook {hook}: committed {committed}, there {found}"
        assert found <= committed | unknown, f"hook {hook}: {found - committed - unknown} were not committed"


async def _verified(store: object) -> set[int]:
    async with Saver(store) as saver:  # type: ignore[arg-type]
        found = await saver._store.steps()
        for step in found:
            await saver.verify(step)
    return set(found)
