"""Figures of saves, and the metrics of checkpoints, as scalars in TensorBoard."""

from __future__ import annotations

import os

from async_ckpt import events
from async_ckpt.events import Event

__all__ = ["TensorBoardObserver"]


class TensorBoardObserver:
    """Writes scalars by step; needs the ``tensorboard`` extra (tensorboardX, whose import takes seconds).

    - ``async_ckpt/stall_secs``, ``async_ckpt/durable_secs``, ``async_ckpt/bytes``;
    - ``async_ckpt/listener_secs/<listener>.<phase>``;
    - ``checkpoint/<metric>``: what the checkpoint holds, reported metrics included.

    With several saver hooks each event counts under its step, whichever directory it is of.

    Args:
        logdir: Where the event files go.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
    """

    kinds = (
        events.SaveStaged,
        events.SaveCommitted,
        events.SaveSettled,
        events.ListenerCalled,
        events.SessionEnded,
    )

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - optional, and slow to import

        self._writer = SummaryWriter(os.fspath(logdir))

    def __call__(self, event: Event) -> None:
        """Write the scalars of one event; they are on disk when the session has ended."""
        match event:
            case events.SaveStaged():
                self._add("async_ckpt/stall_secs", event.seconds, event.step, event.wall)
                self._add("async_ckpt/bytes", event.bytes, event.step, event.wall)
            case events.SaveCommitted():
                self._add("async_ckpt/durable_secs", event.seconds, event.step, event.wall)
            case events.SaveSettled():
                for name, value in event.metrics.items():
                    self._add(f"checkpoint/{name}", value, event.step, event.wall)
            case events.ListenerCalled() if event.step is not None:
                name = f"async_ckpt/listener_secs/{event.listener}.{event.phase}"
                self._add(name, event.seconds, event.step, event.wall)
            case events.SessionEnded():
                self._writer.close()
            case _:
                return

    def _add(self, name: str, value: float, step: int, wall: float) -> None:
        self._writer.add_scalar(name, value, step, walltime=wall)
