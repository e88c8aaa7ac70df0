"""One run of the demo: a session, its saver hook, the evaluator and a display, put together."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from async_ckpt import (
    BestN,
    CheckpointSaverHook,
    LatestN,
    MonitoredTrainingSession,
    StopAtStepHook,
    StructureMismatchError,
    events,
)
from async_ckpt.cli.demo import data, display
from async_ckpt.cli.demo.evaluate import Evaluator
from async_ckpt.cli.demo.state import new_state, train_step
from async_ckpt.cli.demo.view import View
from async_ckpt.cli.outcome import Exit, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_ckpt.cli.demo.command import Options

__all__ = ["run"]

GO_ON = "start over with --fresh"


async def run(options: Options) -> int:
    """Train until the goal, the last step or a signal, and return the exit code.

    Raises:
        Refused: The directory holds a run of another shape.
        CheckpointError: The session could not be entered, or ended with an error.
    """
    digits = data.load()
    state = new_state(digits, hidden=options.hidden, seed=options.seed)
    directory = os.fspath(options.directory)
    view = View(directory, options.steps, options.stop_at)

    def closed() -> None:
        session.request_stop("nobody reads the output any more")

    def measured(step: int, accuracy: float) -> None:
        face.measured(step, accuracy, view.measured(step, accuracy))

    def observe(event: events.Event) -> None:
        view.observe(event)
        if isinstance(event, events.SessionBegan):
            face.say(_first_line(view))
        face.tell(event)

    face = display.choose(view, plain=options.plain, on_closed=closed)
    evaluator = Evaluator(digits, options.stop_at, measured)
    saver_hook = CheckpointSaverHook(
        directory,
        state,
        save_steps=options.save_steps,
        listeners=[evaluator],
        keep=[LatestN(3), BestN(2, "accuracy")],
        restore=None if options.fresh else "latest",
        metadata={"hidden": options.hidden, "seed": options.seed},
    )
    session = MonitoredTrainingSession(
        chief_only_hooks=[saver_hook],
        hooks=[StopAtStepHook(last_step=options.steps)],
        handle_signals=(signal.SIGINT, signal.SIGTERM),
    )
    session.subscribe(observe)
    try:
        async with face, session:
            view.inherit(session.votes, [c.step for c in await saver_hook.saver.checkpoints()])
            _greet(session, evaluator, face, options)
            await _train(
                session, partial(train_step, state, digits, options.rate), view, options.step_ms / 1e3
            )
    except StructureMismatchError as error:
        message = (
            f"{directory} holds a run of another shape: give its --hidden, take another --dir, or {GO_ON}"
        )
        raise Refused(message) from error
    _sum_up(session, evaluator, face, view)
    return Exit.DONE


async def _train(
    session: MonitoredTrainingSession, step: Callable[[], float], view: View, pace: float
) -> None:
    """Take steps until the session stops, none of them shorter than ``pace`` seconds."""
    while not session.should_stop():
        began = time.monotonic()
        loss = await session.run(step)
        view.step, view.loss = session.global_step, loss
        session.metrics["loss"] = loss
        rest = pace - (time.monotonic() - began)
        if rest > 0:
            await asyncio.sleep(rest)


def _first_line(view: View) -> str:
    if view.resumed is None:
        return f"started at step {view.step} in {view.directory}"
    return f"resumed from step {view.resumed} in {view.directory}"


def _greet(
    session: MonitoredTrainingSession, evaluator: Evaluator, face: display.Display, options: Options
) -> None:
    """Say it, and stop, when an earlier run left nothing to do: its votes alone would not stop this one."""
    if evaluator.reached:
        face.say(
            f"goal reached already: accuracy {evaluator.best:.1%} at step {evaluator.best_step};"
            f" go on with a higher --stop-at (0 never stops), or {GO_ON}"
        )
        session.request_stop("the goal was reached in an earlier run")
    elif session.global_step >= options.steps:
        face.say(f"step {session.global_step} of {options.steps} done already: raise --steps, or {GO_ON}")


def _sum_up(
    session: MonitoredTrainingSession, evaluator: Evaluator, face: display.Display, view: View
) -> None:
    face.say(f"stopped at step {session.global_step}: {session.stop_reason}")
    kept = ", ".join(map(str, view.kept))
    face.say(f"best accuracy {evaluator.best:.6f} at step {evaluator.best_step}; on disk: {kept}")
    if view.signals and not evaluator.reached:
        face.say("start it again to go on from here")
