"""How each library saves a dict of arrays once, and opens it again with its own loader."""

from __future__ import annotations

import asyncio
import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import Saver

__all__ = ["RESTORERS", "Arrays", "Restorer"]

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Restorer:
    """One library, used as its documentation shows.

    Attributes:
        package: The distribution whose version is told.
        calls: What was called to save, and to load.
        open: Imports what it needs and gives ``save(directory, arrays)`` and ``load(directory, arrays)``; the
            arrays are numpy's, and a loader is given those of the save only for their shapes.
    """

    package: str
    calls: str
    open: Callable[[], tuple[Callable[[Path, Arrays], object], Callable[[Path, Arrays], Arrays]]]


def _ours() -> Any:
    async def save(directory: Path, arrays: Arrays) -> None:
        async with Saver(directory / "run") as saver:
            await saver.save({"model": arrays}, 1)

    async def load(directory: Path) -> Arrays:
        async with Saver(directory / "run") as saver:
            found: Arrays = (await saver.restore()).state["model"]
            return found

    return (
        lambda directory, arrays: asyncio.run(save(directory, arrays)),
        lambda directory, _: asyncio.run(load(directory)),
    )


def _orbax() -> Any:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    ocp: Any = importlib.import_module("orbax.checkpoint")
    jax: Any = importlib.import_module("jax")
    checkpointer = ocp.StandardCheckpointer()

    def save(directory: Path, arrays: Arrays) -> None:
        state = {name: jax.numpy.asarray(array) for name, array in arrays.items()}
        checkpointer.save(directory / "step", state)
        checkpointer.wait_until_finished()

    def load(directory: Path, arrays: Arrays) -> Arrays:
        like = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
        found = checkpointer.restore(directory / "step", like)
        return {name: np.asarray(array) for name, array in found.items()}

    return save, load


def _dcp() -> Any:
    torch: Any = importlib.import_module("torch")
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    warnings.filterwarnings("ignore", module="torch")

    def load(directory: Path, arrays: Arrays) -> Arrays:
        state = {name: torch.from_numpy(np.zeros_like(array)) for name, array in arrays.items()}
        dcp.load(state, checkpoint_id=directory / "step")
        return _numpy(state)

    return lambda directory, arrays: dcp.save(_torch(arrays), checkpoint_id=directory / "step"), load


def _torch_save() -> Any:
    torch: Any = importlib.import_module("torch")
    return (
        lambda directory, arrays: torch.save(_torch(arrays), directory / "step.pt"),
        lambda directory, _: _numpy(torch.load(directory / "step.pt", weights_only=True)),
    )


def _safetensors() -> Any:
    numpy: Any = importlib.import_module("safetensors.numpy")
    return (
        lambda directory, arrays: numpy.save_file(arrays, directory / "step.safetensors"),
        lambda directory, _: numpy.load_file(directory / "step.safetensors"),
    )


def _lightning() -> Any:
    fabric: Any = importlib.import_module("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    return (
        lambda directory, arrays: fabric.save(directory / "step.ckpt", _torch(arrays)),
        lambda directory, _: _numpy(fabric.load(directory / "step.ckpt")),
    )


def _torch(arrays: Arrays) -> Arrays:
    torch: Any = importlib.import_module("torch")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _numpy(tensors: Arrays) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


RESTORERS = {
    "async_ckpt": Restorer("async-ckpt", "`Saver.save`, `Saver.restore`", _ours),
    "Orbax": Restorer(
        "orbax-checkpoint", "`StandardCheckpointer.save`, `wait_until_finished`, `restore`", _orbax
    ),
    "torch DCP": Restorer("torch", "`dcp.save`, `dcp.load`", _dcp),
    "torch.save": Restorer("torch", "`torch.save`, `torch.load(weights_only=True)`", _torch_save),
    "safetensors": Restorer("safetensors", "`save_file`, `load_file` of `safetensors.numpy`", _safetensors),
    "Lightning": Restorer("lightning", "`Fabric.save`, `Fabric.load`", _lightning),
}
