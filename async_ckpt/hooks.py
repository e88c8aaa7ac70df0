"""What may hang on every step: ``SessionRunHook``, and the stock hooks."""

from __future__ import annotations

import cmath
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from async_ckpt.state.arrays import as_stored, is_array
from async_ckpt.state.dtypes import UnsaveableError

if TYPE_CHECKING:
    from async_ckpt.session import MonitoredTrainingSession

__all__ = [
    "LoggingHook",
    "NanGuardHook",
    "SessionRunHook",
    "StepCounterHook",
    "StepRun",
    "StopAtStepHook",
    "all_finite",
]

logger = logging.getLogger("async_ckpt")


@dataclass(slots=True)
class StepRun:
    """What a hook sees of one step.

    Attributes:
        session: The session.
        step: The step counter: before the step in ``before_run``, behind it in ``check`` and
            ``after_run``.
        steps: By how much the counter moves.
        result: What the step function returned; None in ``before_run`` and with ``advance``.
        request_stop: Asks the session to stop at this boundary.
    """

    session: MonitoredTrainingSession
    step: int
    steps: int
    result: Any
    request_stop: Callable[[str], None]


class SessionRunHook:
    """Six coroutine methods around the life and the steps of a session; all of them do nothing here.

    Counterpart of ``tf.compat.v1.train.SessionRunHook``. Hooks are called in session order, every
    ``check`` before any ``after_run``; which of ``before_run``, ``check`` and ``after_run`` a hook has of
    its own is looked up once, when the session is entered. A hook with ``state_dict()`` and
    ``load_state_dict()`` is saved with every checkpoint and restored with it, under its ``name`` if it has
    one.
    """

    async def begin(self) -> None:
        """Called first of all, before anything is restored."""

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        """Called when the state is restored and ``session.global_step`` is set."""

    async def before_run(self, run: StepRun) -> None:
        """Called before the step."""

    async def check(self, run: StepRun) -> None:
        """Called behind the step, before anything of it is saved.

        An error here means that nothing of this step is saved, the final save included.
        """

    async def after_run(self, run: StepRun) -> None:
        """Called behind the step, at this hook's place in the boundary."""

    async def end(self, session: MonitoredTrainingSession) -> None:
        """Called at the end of the session if ``begin`` returned, whatever happened."""


class StopAtStepHook(SessionRunHook):
    """Stops at ``last_step``, or ``num_steps`` after the step the session starts at.

    Counterpart of ``tf.compat.v1.train.StopAtStepHook``, but a session that starts at or behind
    ``last_step`` stops before its first step instead of training one too many.

    Raises:
        ValueError: Both or none are given, or one is negative.
    """

    def __init__(self, last_step: int | None = None, num_steps: int | None = None) -> None:
        if (last_step is None) == (num_steps is None):
            message = "exactly one of last_step and num_steps has to be given"
            raise ValueError(message)
        given = last_step if num_steps is None else num_steps
        if isinstance(given, bool) or not isinstance(given, int) or given < 0:
            message = f"a step count cannot be {given!r}"
            raise ValueError(message)
        self._last_step = last_step
        self._num_steps = num_steps

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        if self._num_steps is not None:
            self._last_step = session.global_step + self._num_steps
        self._ask(session.global_step, session.request_stop)

    async def after_run(self, run: StepRun) -> None:
        self._ask(run.step, run.request_stop)

    def _ask(self, step: int, request_stop: Callable[[str], None]) -> None:
        if self._last_step is not None and step >= self._last_step:
            request_stop(f"reached step {self._last_step}")


class StepCounterHook(SessionRunHook):
    """Measures steps per second over ``every_n_steps`` or ``every_n_secs`` and logs it.

    Counterpart of ``tf.compat.v1.train.StepCounterHook``.

    Attributes:
        steps_per_sec: The latest rate, in steps per second of the session clock; None before the first.

    Raises:
        ValueError: Not exactly one interval is given, or it is not positive.
    """

    def __init__(self, every_n_steps: int | None = 100, every_n_secs: float | None = None) -> None:
        if (every_n_steps is None) == (every_n_secs is None):
            message = "exactly one of every_n_steps and every_n_secs has to be given"
            raise ValueError(message)
        given = every_n_secs if every_n_steps is None else every_n_steps
        kinds = (int, float) if every_n_steps is None else int
        if isinstance(given, bool) or not isinstance(given, kinds) or not 0 < given < math.inf:
            message = f"an interval has to be positive and finite, not {given!r}"
            raise ValueError(message)
        self.steps_per_sec: float | None = None
        self._every_n_steps = every_n_steps
        self._every_n_secs = every_n_secs
        self._step = 0
        self._at = 0.0

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        self._step, self._at = session.global_step, session.clock.monotonic()

    async def after_run(self, run: StepRun) -> None:
        now = run.session.clock.monotonic()
        steps, secs = run.step - self._step, now - self._at
        due = (
            steps >= self._every_n_steps
            if self._every_n_steps is not None
            else secs >= (self._every_n_secs or 0)
        )
        if not due:
            return
        self.steps_per_sec = steps / secs if secs > 0 else math.inf
        logger.info("step %d: %.4g steps/s", run.step, self.steps_per_sec)
        self._step, self._at = run.step, now


class LoggingHook(SessionRunHook):
    """Logs ``session.metrics``, or the named ones, every ``every_n_steps`` steps.

    Counterpart of ``tf.compat.v1.train.LoggingTensorHook``.
    """

    def __init__(
        self, metrics: Sequence[str] | None = None, *, every_n_steps: int = 100, level: int = logging.INFO
    ) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            message = f"every_n_steps has to be a positive number, not {every_n_steps!r}"
            raise ValueError(message)
        self._names = None if metrics is None else tuple(metrics)
        self._every = every_n_steps
        self._level = level
        self._last: int | None = None

    async def after_create_session(self, session: MonitoredTrainingSession) -> None:
        self._last = session.global_step

    async def after_run(self, run: StepRun) -> None:
        if self._last is not None and run.step < self._last + self._every:
            return
        self._last = run.step
        shown = run.session.metrics
        names = shown if self._names is None else self._names
        text = ", ".join(f"{name}={shown[name]:.6g}" for name in names if name in shown)
        logger.log(self._level, "step %d: %s", run.step, text or "no metrics")


class NanGuardHook(SessionRunHook):
    """Raises before a NaN or an infinity is saved.

    Looks at the step's result (a number, an array, or a mapping of those), at the named
    ``session.metrics`` and, when a save is due and ``state`` is true, at every float leaf of the state.
    It works in ``check``, so nothing of the step is saved, whatever the order of the hooks.

    Raises:
        FloatingPointError: From ``check``; the message names the place and the step.
    """

    def __init__(self, metrics: Sequence[str] = ("loss",), *, state: bool = True) -> None:
        self._metrics = tuple(metrics)
        self._state = state

    async def check(self, run: StepRun) -> None:
        for place, value in _numbers("the step's result", run.result):
            small = getattr(value, "nbytes", 0) <= _SMALL
            look = partial(all_finite, value)
            finite = look() if small else await run.session._host.off_loop(look)
            self._refuse(place, run.step, finite=finite)
        for name in self._metrics:
            if name in run.session.metrics:
                finite = all_finite(run.session.metrics[name])
                self._refuse(f"metric {name!r}", run.step, finite=finite)
        if self._state and run.session.save_due:
            path = await run.session._boundary.find_leaf(lambda value: not all_finite(value))
            if path is not None:
                message = (
                    f"state leaf {path!r} is not finite at step {run.step}; nothing of this step is saved"
                )
                raise FloatingPointError(message)

    @staticmethod
    def _refuse(place: str, step: int, *, finite: bool) -> None:
        if not finite:
            message = f"{place} is not finite at step {step}; nothing of this step is saved"
            raise FloatingPointError(message)


_SMALL = 1 << 16  # bytes that are looked at faster than a thread is reached
_SLICE = 1 << 22  # elements looked at at once, so that the mask stays small beside the state


def all_finite(value: Any) -> bool:
    """Whether a number or an array holds neither NaN nor infinity; anything else counts as finite."""
    if isinstance(value, float | complex):
        return cmath.isfinite(value)
    if not hasattr(value, "dtype"):
        return True
    try:
        # As it is stored, for that also works where numpy itself has no dtype or wants no gradient.
        array = as_stored(value) if is_array(value) else np.asarray(value)
        flat = array.ravel(order="K")
        return all(
            bool(np.isfinite(flat[start : start + _SLICE]).all()) for start in range(0, flat.size, _SLICE)
        )
    except (TypeError, RuntimeError, UnsaveableError):
        # numpy has no isfinite for the dtype, or no view of the tensor: nothing that could be NaN to it.
        return True


def _numbers(place: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _numbers(f"{place}[{key!r}]", item)]
    return [(place, value)]
