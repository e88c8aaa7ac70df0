"""What a listener is, and how any object that looks like one is taken in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_ckpt.session import MonitoredTrainingSession

__all__ = ["PHASES", "CheckpointSaverListener", "Registration", "Stop", "is_stateful", "register"]

PHASES = ("begin", "before_save", "after_save", "end")


class CheckpointSaverListener:
    """Four coroutine callbacks around the saves of one saver hook; all of them do nothing here.

    Counterpart of ``tf.compat.v1.train.CheckpointSaverListener``. Callbacks of all listeners of a
    session run one at a time, in registration order. Arguments are positional; the step is a Python
    ``int``. A listener may keep a schedule of its own and then does its last piece in :meth:`end`.
    Subclassing is a convenience: any object with at least one of the methods will do, plain ``def``
    methods too, which then run in the listeners' own worker thread.

    A listener with ``state_dict()`` and ``load_state_dict()`` is saved with the checkpoint and
    restored with it, under its ``name`` if it has one, else under its class name and position.
    """

    async def begin(self) -> None:
        """Called once, before the session is used and before anything is restored."""

    async def before_save(self, session: MonitoredTrainingSession, global_step_value: int) -> None:
        """Called before the state is staged: what is changed in the state here is in the checkpoint.

        An exception means that nothing is saved by this hook at this step.
        """

    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> Any:
        """Called when the checkpoint of ``global_step_value`` is durable.

        Training may already be in a later step: read the saved values from
        ``await session.saved_state()`` and add metrics with ``session.report({...})``.

        Returns:
            Anything truthy, such as ``True`` or ``Stop("why")``, is a vote to stop the session.
        """

    async def end(self, session: MonitoredTrainingSession, global_step_value: int) -> None:
        """Called exactly once at the end of the session if ``begin`` returned, whatever happened."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A vote to stop that says why: ``return Stop("accuracy 0.98")`` from ``after_save``."""

    reason: str

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Registration:
    """One entry of a hook's listener list.

    Attributes:
        listener: The object itself.
        key: Its name in checkpoints, votes and messages; unique within the hook.
        methods: The callbacks it really defines, bound.
        votes: Whether it defines ``after_save`` and so counts for ``all_of``.
    """

    listener: object
    key: str
    methods: dict[str, Callable[..., Any]]

    @property
    def votes(self) -> bool:
        return "after_save" in self.methods

    @property
    def stateful(self) -> bool:
        return is_stateful(self.listener)


def is_stateful(value: object) -> bool:
    """Whether ``value`` is an instance with ``state_dict()`` and ``load_state_dict()``."""
    return (
        not isinstance(value, type)
        and callable(getattr(value, "state_dict", None))
        and callable(getattr(value, "load_state_dict", None))
    )


def _methods(listener: object) -> dict[str, Callable[..., Any]]:
    found = {}
    for phase in PHASES:
        method = getattr(listener, phase, None)
        default = getattr(CheckpointSaverListener, phase)
        if callable(method) and getattr(method, "__func__", None) is not default:
            found[phase] = method
    return found


def register(listeners: Iterable[object]) -> tuple[Registration, ...]:
    """Copy ``listeners`` into registrations; a generator is consumed once, here.

    Raises:
        TypeError: One of them is a class, or has none of the four methods.
        ValueError: Two of them have the same ``name``.
    """
    registrations: list[Registration] = []
    taken: set[str] = set()
    for position, listener in enumerate(listeners):
        if inspect.isclass(listener):
            message = f"listeners[{position}] is the class {listener.__name__}, not an instance of it"
            raise TypeError(message)
        if not any(callable(getattr(listener, phase, None)) for phase in PHASES):
            message = (
                f"listeners[{position}] is a {type(listener).__name__} with none of the methods "
                f"{', '.join(PHASES)}"
            )
            raise TypeError(message)
        name = getattr(listener, "name", None)
        given = isinstance(name, str) and name != ""
        key = str(name) if given else f"{type(listener).__name__}-{position}"
        if key in taken:
            if not any(entry.listener is listener for entry in registrations):
                message = f"two listeners are named {key!r}"
                raise ValueError(message)
            key = f"{key}-{position}"
        taken.add(key)
        registrations.append(Registration(listener, key, _methods(listener)))
    return tuple(registrations)
