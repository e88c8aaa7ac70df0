"""Orbax's AsyncCheckpointer, with numpy arrays and with jax arrays."""

from __future__ import annotations

import importlib
import logging
import os
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks.states import Arrays
from benchmarks.systems.base import Times
from benchmarks.threads import Thread

__all__ = ["Orbax"]


class Orbax:
    """``save`` returns when the state may be changed; ``wait_until_finished`` when it is committed."""

    def __init__(self, arrays: Literal["numpy", "jax"]) -> None:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        self._kind = arrays
        self._worker = Thread("orbax")
        self._ocp: Any = importlib.import_module("orbax.checkpoint")
        logging.getLogger("absl").setLevel(logging.ERROR)

    def adopt(self, arrays: Arrays) -> None:
        self._state: Any = arrays
        if self._kind == "jax":
            jax: Any = importlib.import_module("jax")
            self._state = {
                group: {name: jax.numpy.array(names.pop(name)) for name in list(names)}
                for group, names in arrays.items()
            }
            jax.block_until_ready(self._state)

    async def open(self, directory: Path) -> None:
        self._directory = directory
        handler = self._ocp.StandardCheckpointHandler()
        self._checkpointer = await self._worker.call(self._ocp.AsyncCheckpointer, handler)

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        await self._worker.call(self._save, self._directory / str(step))
        released = time.perf_counter()
        await self._worker.call(self._checkpointer.wait_until_finished)
        return Times(began, released, time.perf_counter())

    def _save(self, path: Path) -> None:
        self._checkpointer.save(path, args=self._ocp.args.StandardSave(self._state))

    async def close(self) -> None:
        await self._worker.call(self._checkpointer.close)
        self._worker.close()
