"""torchsnapshot's async_take."""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.states import Arrays
from benchmarks.systems.base import Times
from benchmarks.threads import Thread

__all__ = ["TorchSnapshot"]


class TorchSnapshot:
    """``async_take`` returns when staging is over, ``wait`` when the snapshot's metadata is written."""

    def __init__(self) -> None:
        warnings.filterwarnings("ignore")
        self._worker = Thread("torchsnapshot")
        self._torch: Any = importlib.import_module("torch")
        self._lib: Any = importlib.import_module("torchsnapshot")
        logging.getLogger("torchsnapshot").setLevel(logging.ERROR)

    def adopt(self, arrays: Arrays) -> None:
        from_numpy = self._torch.from_numpy
        tensors = {
            f"{group}.{name}": from_numpy(array)
            for group, names in arrays.items()
            for name, array in names.items()
        }
        self._state = {"state": self._lib.StateDict(**tensors)}

    async def open(self, directory: Path) -> None:
        self._directory = directory

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        pending = await self._worker.call(self._take, self._directory / str(step))
        released = time.perf_counter()
        await self._worker.call(pending.wait)
        return Times(began, released, time.perf_counter())

    def _take(self, path: Path) -> Any:
        return self._lib.Snapshot.async_take(path=str(path), app_state=self._state)

    async def close(self) -> None:
        self._worker.close()
