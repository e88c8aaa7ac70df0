"""Lives of a run: short sessions over a directory, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver
from async_ckpt.events import Event
from async_ckpt.storage.manifest import digest

__all__ = [
    "Log",
    "flip_byte",
    "listed",
    "live",
    "messages",
    "names",
    "new_state",
    "newer_format",
    "restored_state",
    "tensor_file",
    "train",
]


def new_state(value: float = 0.0) -> dict[str, Any]:
    """An array and a plain value that move with every step of :func:`train`."""
    return {"w": np.full(4, value), "n": 0}


def step_of(state: dict[str, Any]) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        state["w"] += 1.0
        state["n"] += 1

    return step


async def train(session: MonitoredTrainingSession, state: dict[str, Any], steps: int) -> None:
    for _ in range(steps):
        await session.run(step_of(state))


async def live(
    directory: Path, steps: int, state: dict[str, Any] | None = None, **hook: Any
) -> dict[str, Any]:
    """One whole life with one saver hook; returns the state it ended with."""
    state = new_state() if state is None else state
    hook.setdefault("save_steps", 1)
    saver_hook = CheckpointSaverHook(directory, state, **hook)
    async with MonitoredTrainingSession(chief_only_hooks=[saver_hook]) as session:
        await train(session, state, steps)
    return state


async def listed(directory: Path) -> list[int]:
    async with Saver(directory) as saver:
        return [checkpoint.step for checkpoint in await saver.checkpoints()]


async def restored_state(directory: Path, step: int) -> Any:
    """What a checkpoint holds, in fresh containers."""
    async with Saver(directory) as saver:
        return (await saver.restore(step)).state


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip_byte(file: Path, at: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x01
    file.write_bytes(bytes(data))


def newer_format(directory: Path, step: int) -> None:
    """Rewrite a manifest as a later release would: another version, and a digest that is right."""
    path = directory / f"step-{step:08d}" / "manifest.json"
    data = path.read_bytes()
    start = data.index(b'"body":') + len(b'"body":')
    body = data[start:-2].replace(b'"version":1', b'"version":2', 1)
    old = digest(data[start:-2]).encode("ascii")
    path.write_bytes(data[:start].replace(old, digest(body).encode("ascii")) + body + data[-2:])


def tensor_file(directory: Path, step: int) -> Path:
    return next((directory / f"step-{step:08d}").glob("*.safetensors"))


class Log:
    """An observer that remembers everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def messages(records: Iterable[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in records]
