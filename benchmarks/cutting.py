"""The processes that save before the power goes, and open what is there after it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.restorers import RESTORERS, Arrays

__all__ = ["OUTCOMES", "SAVERS", "SafeSaver", "open_all", "save_all"]

OUTCOMES = ("intact", "missing", "refused", "older", "silent", "died")


@dataclass(frozen=True)
class SafeSaver:
    """One way to save.

    Attributes:
        package: The distribution whose version is told.
        calls: What was called.
        open: Gives ``save(directory, arrays)`` and ``load(directory, arrays)``.
    """

    package: str
    calls: str
    open: Callable[[], tuple[Callable[[Path, Arrays], object], Callable[[Path, Arrays], Arrays]]]


def _torch_file(*, replace: bool, flush: bool) -> Callable[[], Any]:
    """``torch.save`` as people make it safer."""

    def opened() -> Any:
        torch: Any = importlib.import_module("torch")

        def save(directory: Path, arrays: Arrays) -> None:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            path = directory / "step.pt"
            temp = directory / "temp.pt" if replace else path
            with temp.open("wb") as file:
                torch.save(tensors, file)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            if replace:
                temp.replace(path)

        def load(directory: Path, _: Arrays) -> Arrays:
            found = torch.load(directory / "step.pt", weights_only=True)
            return {name: tensor.numpy() for name, tensor in found.items()}

        return save, load

    return opened


def _known(name: str) -> SafeSaver:
    known = RESTORERS[name]
    return SafeSaver(known.package, known.calls, known.open)


SAVERS: dict[str, SafeSaver] = {
    "async_ckpt": _known("async_ckpt"),
    "Orbax": _known("Orbax"),
    "torch DCP": _known("torch DCP"),
    "torch.save": _known("torch.save"),
    "torch.save, os.replace": SafeSaver(
        "torch", "`torch.save`, `os.replace`", _torch_file(replace=True, flush=False)
    ),
    "torch.save, fsync, os.replace": SafeSaver(
        "torch", "`torch.save`, `os.fsync` of the file, `os.replace`", _torch_file(replace=True, flush=True)
    ),
    "safetensors": _known("safetensors"),
    "Lightning": _known("Lightning"),
}


def arrays_of(step: int) -> Arrays:
    """What is saved at a step: 4 arrays, 0.3 MB, every value another one than at the step before."""
    rng = np.random.default_rng(step)
    shapes = {"embed": (256, 64), "hidden": (64, 256), "bias": (256,), "moment": (160, 256)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def save_all(name: str, root: Path, pauses: list[float], log: Path) -> None:
    """Save before each pause, and say how long the disk's log was when that was called saved."""
    save, _ = SAVERS[name].open()
    for step, pause in enumerate(pauses, 1):
        directory = root / f"{step}"
        directory.mkdir()
        _durable(directory, root)  # that it is there is not the library's affair
        save(directory, arrays_of(step))
        sys.stdout.write(json.dumps({"step": step, "position": log.stat().st_size}) + "\n")
        sys.stdout.flush()
        time.sleep(pause)
    os._exit(0)  # no library tidies up behind itself


def _durable(*directories: Path) -> None:
    for directory in directories:
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def open_all(name: str) -> None:
    """Open what each line of standard input names, and answer with what came of it."""
    _, load = SAVERS[name].open()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        outcome, error = _judged(load, Path(asked["directory"]), asked["step"])
        answers.write(json.dumps({"outcome": outcome, "error": error}) + "\n")
        answers.flush()


def _judged(load: Callable[[Path, Arrays], Arrays], root: Path, step: int) -> tuple[str, str | None]:
    directory = root / f"{step}"
    expected = arrays_of(step)
    try:
        found = load(directory, expected)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - torch's own CheckpointException is no Exception
        there = directory.is_dir() and any(directory.iterdir())
        return "refused" if there else "missing", type(error).__name__
    if _same(found, expected):
        return "intact", None
    older = any(_same(found, arrays_of(other)) for other in range(1, step))
    return "older" if older else "silent", None


def _same(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].shape == array.shape and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )
