"""The process that flips bits in one library's checkpoint, and opens it after each."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.restorers import RESTORERS, Arrays

__all__ = ["OUTCOMES", "Draw", "Outcome", "flip_all", "state"]

LIMIT_SECS = 60
"""A loader that takes longer dies."""

Draw = Literal["byte", "file"]
Outcome = Literal["silent", "refused", "harmless", "died"]
OUTCOMES: tuple[Outcome, ...] = ("silent", "refused", "harmless", "died")


def state() -> Arrays:
    """A small network and two moments for each of its arrays: random floats, 12 arrays, 0.4 MB."""
    rng = np.random.default_rng(0)
    shapes = {"embed": (256, 64), "hidden": (64, 256), "bias": (256,), "head": (256, 10)}
    return {
        f"{kind}.{name}": rng.standard_normal(shape).astype(np.float32)
        for kind in ("param", "m", "v")
        for name, shape in shapes.items()
    }


def flip_all(name: str, directory: Path, seed: int, flips: list[int], start: int) -> None:
    """Save, unless that was done, and flip from number ``start`` on; a line of JSON for each."""
    arrays = state()
    save, load = RESTORERS[name].open()
    whole = directory / "whole"
    if not whole.exists():
        whole.mkdir()
        save(whole, arrays)
    files = sorted(file for file in whole.rglob("*") if file.is_file() and file.stat().st_size)
    sizes = [file.stat().st_size for file in files]
    if not _same(load(whole, arrays), arrays):
        raise SystemExit("the undamaged checkpoint does not come back")
    print(json.dumps({"files": len(files), "bytes": sum(sizes)}), flush=True)
    for number in range(start, sum(flips)):
        draw: Draw = "byte" if number < flips[0] else "file"
        # By its number: after a death the next one is the one it would have been.
        rng = random.Random(f"{seed} {name} {number}")
        file = rng.choices(files, sizes if draw == "byte" else None)[0]
        at, bit = rng.randrange(file.stat().st_size), rng.randrange(8)
        # In a place of its own, for some loaders remember what they have read under a name.
        trial = Path(shutil.copytree(whole, directory / str(number)))
        _flip(trial / file.relative_to(whole), at, bit)
        outcome, error = _judge(partial(load, trial, arrays), arrays)
        shutil.rmtree(trial, ignore_errors=True)
        told = {"draw": draw, "outcome": outcome, "error": error, "file": file.name, "at": at, "bit": bit}
        print(json.dumps(told), flush=True)


def _judge(load: Callable[[], Arrays], arrays: Arrays) -> tuple[Outcome, str | None]:
    signal.alarm(LIMIT_SECS)
    try:
        found = load()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - DCP's error is no Exception; whatever it is, it said something
        return "refused", type(error).__name__
    finally:
        signal.alarm(0)
    return ("harmless" if _same(found, arrays) else "silent"), None


def _same(found: Arrays, arrays: Arrays) -> bool:
    """Whether every array comes back with every bit."""
    return found.keys() == arrays.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


def _flip(file: Path, at: int, bit: int) -> None:
    with file.open("r+b", buffering=0) as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << bit]))
