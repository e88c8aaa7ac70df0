"""The command in this process, and directories of checkpoints to try it on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import Saver
from async_ckpt.cli import main

__all__ = ["Done", "flip", "run", "saved", "state"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: f"not JSON: {name}")


def run(*words: object) -> Done:
    """Run ``async-ckpt words...`` as if piped."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Done(code, out.getvalue(), err.getvalue())


def state(step: int) -> dict[str, Any]:
    """A state of two groups, of which one never changes."""
    return {
        "frozen": {"table": np.arange(2000, dtype=np.int16)},
        "model": {"w": np.full((3, 4), float(step), np.float32), "b": np.zeros(4)},
    }


def saved(
    directory: Path,
    *steps: int,
    make: Callable[[int], Any] = state,
    metrics: Callable[[int], Mapping[str, float]] = lambda step: {"loss": 1 / (1 + step)},
    **options: Any,
) -> Path:
    """Save ``make(step)`` for each step, with a metric, and keep them all."""

    async def save() -> None:
        async with Saver(directory, max_to_keep=None, **options) as saver:
            for step in steps:
                await saver.save(make(step), step, metrics=metrics(step), metadata={"seed": 7})

    asyncio.run(save())
    return directory


def flip(path: Path, at: int = -1) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
