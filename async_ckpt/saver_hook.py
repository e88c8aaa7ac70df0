"""``CheckpointSaverHook``: binds a saver, a trigger and listeners to a session."""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from async_ckpt.core.triggers import EverySecs, EverySteps, Trigger, WhenAsked
from async_ckpt.core.votes import Rule, any_of
from async_ckpt.errors import ProtocolError
from async_ckpt.hooks import SessionRunHook
from async_ckpt.listeners import is_stateful, register
from async_ckpt.runtime.lane import is_coroutine_function
from async_ckpt.saver import Saver
from async_ckpt.saver.arguments import encoded_metadata
from async_ckpt.system.clock import Clock

if TYPE_CHECKING:
    from async_ckpt.core.retention import Policy
    from async_ckpt.session import MonitoredTrainingSession

__all__ = ["CheckpointSaverHook"]

_STEP_DIRECTORY = re.compile(r"step-[0-9]{8,19}", re.ASCII)


class CheckpointSaverHook(SessionRunHook):
    """Saves a state when it is due and calls its listeners around every save.

    Counterpart of ``tf.compat.v1.train.CheckpointSaverHook``. Exactly one of ``save_secs``,
    ``save_steps`` and ``save_when`` has to be given. A hook object serves one session.

    Args:
        checkpoint_dir: The directory, or a :class:`Saver` of your own (which then brings its own
            retention and staging, and which you close yourself).
        state: What is saved: a pytree of arrays and plain values, an object with ``state_dict()`` and
            ``load_state_dict()``, a mapping of those, or a callable returning one of them. Restored in
            place, all or nothing, so every leaf that is no writable array has to stand in a mutable
            container. A callable is evaluated after ``before_save``, in the thread that ran the last
            step, and never restored in place.
        load: Called with the restored tree instead of restoring in place; needed for a callable.
        save_secs: Seconds between saves, on the monotonic clock, read at boundaries.
        save_steps: Steps between saves.
        save_when: ``save_when(session) -> bool``, a plain function asked at every boundary.
        listeners: Objects with at least one of the listener methods; copied here.
        max_to_keep: How many checkpoints to keep; None or 0 keeps all.
        keep_checkpoint_every_n_hours: Keeps one per so many hours beside those.
        keep: Retention policies, used instead of the two above; several are united.
        when_busy: What to do when a save falls due while a round is in flight: hold the step
            (``"wait"``), drop the save (``"skip"``), or take it at the first boundary where none is
            (``"coalesce"``).
        votes: Rule that turns votes into a decision: ``any_of``, ``all_of``, ``at_least(n)``.
        honor_stop: ``"next_step"``: stop at the first boundary after the decision is known.
            ``"next_save"``: stop at the next grid step, which is still saved; the same step on every
            run. Needs ``save_steps`` and ``when_busy="wait"``.
        blocking: Do the whole sequence at this hook's place in the boundary.
        staging: ``"copy"`` or ``"overlap"``.
        restore: ``"latest"``, a step, a path (warm start from another run, when the own directory has
            no checkpoint yet), or None.
        initial_save: ``"fresh"`` saves step 0 of a new run, ``"always"`` the step of entry (as
            TensorFlow does), ``"never"`` neither.
        metadata: Plain values for the manifest.
        listener_timeout_secs: Limit of one callback, by the loop's clock.
        on_listener_error: ``"raise"`` or ``"log"``.
        on_save_error: ``"raise"`` or ``"warn"``.

    Raises:
        ValueError, TypeError: An argument is out of range or of the wrong kind.
        UnsupportedLeafError: ``metadata`` holds something that is no plain value.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str] | Saver,
        state: Any,
        *,
        load: Callable[[Any], Any] | None = None,
        save_secs: float | None = None,
        save_steps: int | None = None,
        save_when: Callable[[MonitoredTrainingSession], bool] | None = None,
        listeners: Iterable[object] = (),
        max_to_keep: int | None = 5,
        keep_checkpoint_every_n_hours: float | None = None,
        keep: Policy | Iterable[Policy] | None = None,
        when_busy: Literal["wait", "skip", "coalesce"] = "wait",
        votes: Rule = any_of,
        honor_stop: Literal["next_step", "next_save"] = "next_step",
        blocking: bool = False,
        staging: Literal["copy", "overlap"] = "copy",
        restore: str | int | os.PathLike[str] | None = "latest",
        initial_save: Literal["fresh", "always", "never"] = "fresh",
        metadata: Mapping[str, Any] | None = None,
        listener_timeout_secs: float | None = None,
        on_listener_error: Literal["raise", "log"] = "raise",
        on_save_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        self.trigger_template = _trigger(save_secs, save_steps, save_when)
        self.save_when = save_when
        _one_of("when_busy", when_busy, ("wait", "skip", "coalesce"))
        _one_of("honor_stop", honor_stop, ("next_step", "next_save"))
        _one_of("staging", staging, ("copy", "overlap"))
        _one_of("initial_save", initial_save, ("fresh", "always", "never"))
        _one_of("on_listener_error", on_listener_error, ("raise", "log"))
        _one_of("on_save_error", on_save_error, ("raise", "warn"))
        if honor_stop == "next_save" and (save_steps is None or when_busy != "wait"):
            message = 'honor_stop="next_save" needs a grid: save_steps and when_busy="wait"'
            raise ValueError(message)
        if not _is_rule(votes):
            message = f"votes has to be any_of, all_of or at_least(n), not {votes!r}"
            raise TypeError(message)
        if load is not None and not callable(load):
            message = f"load has to be callable, not {type(load).__name__}"
            raise TypeError(message)
        if listener_timeout_secs is not None:
            _positive("listener_timeout_secs", listener_timeout_secs)
        encoded_metadata(metadata)
        if not isinstance(checkpoint_dir, str | os.PathLike | Saver):
            message = f"checkpoint_dir has to be a path or a Saver, not {checkpoint_dir!r}"
            raise TypeError(message)
        if checkpoint_dir == "":
            message = "checkpoint_dir is empty; the working directory is '.'"
            raise ValueError(message)
        self.restore_step, self.restore_path = _restore_source(restore)
        self.restores = restore is not None
        self.state = state
        self.load = load
        self.registrations = register(listeners)
        self.when_busy: Literal["wait", "skip", "coalesce"] = when_busy
        self.rule = votes
        self.honor_stop: Literal["next_step", "next_save"] = honor_stop
        self.blocking = bool(blocking)
        self.initial_save = initial_save
        self.metadata = None if metadata is None else dict(metadata)
        self.listener_timeout_secs = listener_timeout_secs
        self.on_listener_error: Literal["raise", "log"] = on_listener_error
        self.on_save_error: Literal["raise", "warn"] = on_save_error
        self._bound_to: object | None = None
        if isinstance(checkpoint_dir, Saver):
            if (max_to_keep, keep, keep_checkpoint_every_n_hours, staging) != (5, None, None, "copy"):
                message = (
                    "max_to_keep, keep, keep_checkpoint_every_n_hours and staging belong to the Saver given"
                )
                raise ValueError(message)
            self.saver, self.owns_saver = checkpoint_dir, False
        else:
            self.saver = Saver(
                checkpoint_dir,
                max_to_keep=max_to_keep,
                keep=keep,
                keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
                staging=staging,
            )
            self.owns_saver = True

    @property
    def listeners(self) -> tuple[object, ...]:
        """The listeners, in registration order."""
        return tuple(entry.listener for entry in self.registrations)

    @property
    def voters(self) -> int:
        """How many registrations define ``after_save``."""
        return sum(entry.votes for entry in self.registrations)

    @property
    def restores_in_place(self) -> bool:
        """Whether the state itself is filled on restore."""
        return self.load is None and not self.is_callable

    @property
    def is_callable(self) -> bool:
        """Whether ``state`` is a function to be called, rather than the state."""
        return callable(self.state) and not is_stateful(self.state)

    @property
    def bound_to_thread(self) -> bool:
        """Whether reading the state runs the user's code, which belongs where the last step ran."""
        if self.is_callable or is_stateful(self.state):
            return True
        return isinstance(self.state, Mapping) and any(is_stateful(value) for value in self.state.values())

    @property
    def session(self) -> object | None:
        """The one session it serves, once there is one."""
        return self._bound_to

    def read_state(self) -> Any:
        """The state as it stands now."""
        return self.state() if self.is_callable else self.state

    def check_unbound(self) -> None:
        """Refuse a second session.

        Raises:
            ProtocolError: It already served another one.
        """
        if self._bound_to is not None:
            message = "a CheckpointSaverHook serves one session; build a new one for the next"
            raise ProtocolError(message)

    def bind(self, session: object, clock: Clock) -> None:
        """Tie this hook to its one session, whose clock stamps what a saver of the hook's own saves."""
        self._bound_to = session
        if self.owns_saver:
            self.saver._clock = clock


def _trigger(
    save_secs: float | None, save_steps: int | None, save_when: Callable[..., Any] | None
) -> Trigger:
    given = [v for v in (save_secs, save_steps, save_when) if v is not None]
    if len(given) != 1:
        message = f"exactly one of save_secs, save_steps and save_when has to be given, not {len(given)}"
        raise ValueError(message)
    if save_steps is not None:
        if isinstance(save_steps, bool) or not isinstance(save_steps, int):
            message = f"save_steps has to be an int, not {save_steps!r}"
            raise ValueError(message)
        _positive("save_steps", save_steps)
        return EverySteps(save_steps)
    if save_secs is not None:
        _positive("save_secs", save_secs)
        return EverySecs(float(save_secs))
    if not callable(save_when):
        message = f"save_when has to be callable, not {type(save_when).__name__}"
        raise TypeError(message)
    if is_coroutine_function(save_when):
        message = "save_when has to be a plain function: a coroutine is truthy, so every boundary would save"
        raise TypeError(message)
    return WhenAsked()


def _is_rule(votes: object) -> bool:
    """Whether ``votes`` takes two numbers; ``at_least`` without its ``n`` would fail at the first vote."""
    if not callable(votes):
        return False
    try:
        inspect.signature(votes).bind(1, 1)
    except TypeError:
        return False
    except ValueError:
        return True  # some builtins do not tell their signature
    return True


def _restore_source(
    restore: str | int | os.PathLike[str] | None,
) -> tuple[int | None, tuple[Path, int | None] | None]:
    """Split ``restore`` into an own step, and a foreign directory with an optional step."""
    if restore is None or restore == "latest":
        return None, None
    if isinstance(restore, int) and not isinstance(restore, bool):
        if restore < 0:
            message = f"restore={restore}: a step cannot be negative"
            raise ValueError(message)
        return restore, None
    if restore == "":
        message = "restore is an empty path; the working directory is '.'"
        raise ValueError(message)
    if isinstance(restore, str | os.PathLike):
        path = Path(restore)
        if _STEP_DIRECTORY.fullmatch(path.name):
            return None, (path.parent, int(path.name.removeprefix("step-")))
        return None, (path, None)
    message = f'restore has to be "latest", a step, a path or None, not {restore!r}'
    raise TypeError(message)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        message = f"{name} has to be one of {', '.join(map(repr, allowed))}, not {value!r}"
        raise ValueError(message)


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{name} has to be a number, not {value!r}"
        raise ValueError(message)
    if not value > 0 or math.isinf(value):
        message = f"{name} has to be a positive, finite number, not {value!r}"
        raise ValueError(message)
