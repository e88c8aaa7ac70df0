"""From the arguments of a session to the places of its hooks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from async_ckpt.hooks import SessionRunHook
from async_ckpt.runtime.callbacks import Callbacks
from async_ckpt.runtime.runner import SaveRunner
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Place
from async_ckpt.session.host import SessionHost

__all__ = ["Roster", "check_options", "places_of", "roster_of"]


def check_options(final_save: str, grace_secs: float) -> None:
    """Refuse options that mean nothing.

    Raises:
        ValueError: One of them is out of range.
    """
    if final_save not in ("clean", "never", "always"):
        message = f'final_save has to be "clean", "never" or "always", not {final_save!r}'
        raise ValueError(message)
    if isinstance(grace_secs, bool) or not isinstance(grace_secs, int | float) or not grace_secs >= 0:
        message = f"grace_secs cannot be {grace_secs!r}"
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Roster:
    """Who takes part in a session.

    Attributes:
        active: The hooks that have a place, in session order.
        readers: Saver hooks that only restore, where the chief's hooks are dropped.
        saver_hooks: All of both kinds.
        dropped: How many hooks are dropped, readers included.
    """

    active: tuple[SessionRunHook, ...]
    readers: tuple[CheckpointSaverHook, ...]
    saver_hooks: tuple[CheckpointSaverHook, ...]
    dropped: int


def roster_of(
    hooks: Iterable[SessionRunHook], chief_only_hooks: Iterable[SessionRunHook], *, is_chief: bool
) -> Roster:
    """Sort the hooks a session is given.

    Raises:
        TypeError: One of them is no hook.
        ValueError: Two saver hooks save to one directory.
        ProtocolError: A saver hook already served another session.
    """
    chief_only, everywhere = tuple(chief_only_hooks), tuple(hooks)
    for hook in (*chief_only, *everywhere):
        if not isinstance(hook, SessionRunHook):
            message = f"a hook has to be a SessionRunHook, not {hook!r}"
            raise TypeError(message)
    saver_hooks = _saver_hooks((*chief_only, *everywhere))
    _refuse_shared_directories(saver_hooks)
    for saver_hook in saver_hooks:
        saver_hook.check_unbound()
    if is_chief:
        return Roster((*chief_only, *everywhere), (), saver_hooks, 0)
    return Roster(everywhere, _saver_hooks(chief_only), saver_hooks, len(chief_only))


def places_of(hooks: Iterable[SessionRunHook], host: SessionHost) -> list[Place]:
    """Give every hook its place in session order, and every saver hook a runner."""
    places = []
    index = 0
    for hook in hooks:
        if not isinstance(hook, CheckpointSaverHook):
            places.append(Place(hook))
            continue
        runner = SaveRunner(
            saver=hook.saver,
            read_state=hook.read_state,
            state_is_bound=hook.bound_to_thread,
            callbacks=Callbacks(
                hook.registrations,
                host,
                directory=hook.saver.location,
                on_error=hook.on_listener_error,
                timeout_secs=hook.listener_timeout_secs,
            ),
            host=host,
            metadata=hook.metadata,
            on_save_error=hook.on_save_error,
            overlap=hook.saver.staging == "overlap",
        )
        places.append(Place(hook, runner, index))
        index += 1
    return places


def _saver_hooks(hooks: Iterable[SessionRunHook]) -> tuple[CheckpointSaverHook, ...]:
    return tuple(hook for hook in hooks if isinstance(hook, CheckpointSaverHook))


def _refuse_shared_directories(hooks: Iterable[CheckpointSaverHook]) -> None:
    seen: dict[str, str] = {}
    for hook in hooks:
        location = hook.saver.location
        # Links lead to one place under two names; what is no path stays what it is.
        place = os.path.realpath(location)
        if place in seen:
            also = "" if seen[place] == location else f" (also known as {location})"
            message = f"two saver hooks save to {seen[place]}{also}"
            raise ValueError(message)
        seen[place] = location
