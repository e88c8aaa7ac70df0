"""From the hooks a session is given to their places in it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from async_ckpt.hooks import SessionRunHook
from async_ckpt.runtime.callbacks import Callbacks
from async_ckpt.runtime.runner import SaveRunner
from async_ckpt.saver_hook import CheckpointSaverHook
from async_ckpt.session.boundary import Place
from async_ckpt.session.host import SessionHost

__all__ = ["places_of", "refuse_shared_directories"]


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


def refuse_shared_directories(hooks: Iterable[CheckpointSaverHook]) -> None:
    """Raise ``ValueError`` if two saver hooks save to one directory, under whatever names."""
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
