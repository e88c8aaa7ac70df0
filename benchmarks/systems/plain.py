"""What people write themselves: copy everything, then safetensors or torch.save in a thread."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.states import Arrays
from benchmarks.systems.base import Times
from benchmarks.threads import Thread

__all__ = ["CopyThenSafetensors", "TorchSave"]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class CopyThenSafetensors:
    """Copies into fresh arrays; then ``save_file`` in a thread, and fsync of file and directory."""

    def __init__(self) -> None:
        self._worker = Thread("safetensors")
        self._save_file: Any = importlib.import_module("safetensors.numpy").save_file

    def adopt(self, arrays: Arrays) -> None:
        self._arrays = {f"{group}.{name}": a for group, names in arrays.items() for name, a in names.items()}

    async def open(self, directory: Path) -> None:
        self._directory = directory

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        copies = await self._worker.call(self._copy)
        released = time.perf_counter()
        await self._worker.call(self._write, copies, self._directory / f"{step}.safetensors")
        return Times(began, released, time.perf_counter())

    def _copy(self) -> dict[str, Any]:
        return {name: np.array(array) for name, array in self._arrays.items()}

    def _write(self, arrays: dict[str, Any], path: Path) -> None:
        self._save_file(arrays, path)
        _sync(path)
        _sync(path.parent)

    async def close(self) -> None:
        self._worker.close()


class TorchSave:
    """``torch.save`` of the live state and an fsync, in a thread that the caller waits for."""

    def __init__(self) -> None:
        self._worker = Thread("torch-save")
        self._torch: Any = importlib.import_module("torch")

    def adopt(self, arrays: Arrays) -> None:
        from_numpy = self._torch.from_numpy
        self._state = {
            group: {name: from_numpy(array) for name, array in names.items()}
            for group, names in arrays.items()
        }

    async def open(self, directory: Path) -> None:
        self._directory = directory

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        await self._worker.call(self._write, self._directory / f"{step}.pt")
        ended = time.perf_counter()
        return Times(began, ended, ended)

    def _write(self, path: Path) -> None:
        with path.open("wb") as file:
            self._torch.save(self._state, file)
            file.flush()
            os.fsync(file.fileno())
        _sync(path.parent)

    async def close(self) -> None:
        self._worker.close()
