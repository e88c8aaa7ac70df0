"""Three small checkpoints, each with an older one below it: what the exhaustive tests damage byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from async_ckpt.saver import Saver
from tests.reliability.inline import run_inline

__all__ = ["KINDS", "NEW", "OLD", "Made", "make"]

OLD, NEW = 7, 12


@dataclass(frozen=True)
class Made:
    """A directory with two checkpoints, and what each of them holds."""

    directory: Path
    states: dict[int, dict[str, Any]]

    @property
    def newest(self) -> Path:
        return self.directory / f"step-{NEW:08d}"

    def files(self) -> list[Path]:
        return sorted(self.newest.iterdir())


def grouped(step: int) -> dict[str, Any]:
    """Several files, plain values, and a report."""
    rng = np.random.default_rng(step)
    return {
        "model": {"w": rng.standard_normal((4, 9)), "b": rng.standard_normal(9).astype(np.float32)},
        "optimizer": {"m": rng.standard_normal((4, 9)), "lr": 1e-3, "steps": step},
        "position": 2**70 + step,
        "seen": (1, 2),
    }


def of_many_dtypes(step: int) -> dict[str, Any]:
    """One array of each element type that numpy and ml_dtypes know, and what is kept as bytes."""
    rng = np.random.default_rng(step)
    names = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8", "c16", ">i4"]
    small = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
    arrays = {name: rng.integers(0, 2, (2, 3)).astype(name) for name in names}
    arrays |= {kind.__name__: rng.standard_normal(5).astype(kind) for kind in small}
    return {
        "all": arrays | {"empty": np.empty((0, 4), np.float32), "scalar": np.array(2.5)},
        "raw": rng.bytes(60),
        "rng": np.random.default_rng(step + 1),
        "name": "naïve \N{SNOWMAN}",
        "nan": float("nan"),
    }


def of_reused_groups(step: int) -> dict[str, Any]:
    """The encoder never changes, so the newer checkpoint has a second name for the older one's file."""
    rng = np.random.default_rng(step)
    return {
        "encoder": {"w": np.arange(30.0).reshape(3, 10), "table": np.arange(50, dtype=np.int16)},
        "head": {"w": rng.standard_normal(30), "b": rng.standard_normal(3)},
    }


@dataclass(frozen=True)
class Kind:
    state: Callable[[int], dict[str, Any]]
    report: bool = False
    reuse: bool = False


KINDS = {
    "groups and a report": Kind(grouped, report=True),
    "many dtypes": Kind(of_many_dtypes),
    "linked files": Kind(of_reused_groups, reuse=True),
}


def make(directory: Path, kind: str) -> Made:
    """Write the two checkpoints of a kind."""
    return run_inline(_make(directory, KINDS[kind]))


async def _make(directory: Path, kind: Kind) -> Made:
    states = {step: kind.state(step) for step in (OLD, NEW)}
    async with Saver(directory, reuse_unchanged=kind.reuse) as saver:
        for step, state in states.items():
            pending = saver._start(
                saver._flatten(state),
                step,
                metrics={"loss": 0.25},
                metadata={"run": "a"},
                listeners={"patience": {"left": 3}},
                expects_report=kind.report,
            )
            pending.allow_commit()
            await pending
            pending.release()
            if kind.report:
                votes = [{"listener": "A", "index": 0, "vote": True, "reason": None}]
                await saver._add_report(step, votes, {"accuracy": 0.5}, {"patience": {"left": 2}})
    return Made(directory, states)
