"""``async-ckpt demo``: its options. What it does is in :mod:`async_ckpt.cli.demo.run`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from async_ckpt.cli.options import Flag

__all__ = ["Options", "demo"]


def _a_number(_: object, value: float) -> None:
    """Refuse NaN, which lies within every bound there is."""
    if math.isnan(value):
        raise ValueError("Must be a number.")


Count: TypeAlias = Annotated[int, Parameter(validator=Number(gte=1))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one run.

    Attributes:
        directory: Where the checkpoints go. A run found there is resumed.
        hidden: Width of the two hidden layers, and so the size of a checkpoint.
        steps: Last step of the run.
        save_steps: Steps from one checkpoint to the next.
        stop_at: Accuracy on held-out scans, from 0 to 1, at which the listener votes to stop; 0 is never.
        rate: Learning rate.
        step_ms: Least time a step takes, in milliseconds, so that there is something to watch.
        seed: Seed of a new run.
        fresh: Begin anew. Checkpoints found there are set aside, not deleted.
        plain: Plain lines instead of the panel.
    """

    directory: Annotated[Path, Parameter(name="--dir")] = Path("runs/demo")
    hidden: Count = 512
    steps: Count = 2000
    save_steps: Count = 20
    stop_at: Annotated[float, Parameter(validator=(_a_number, Number(gte=0, lte=1)))] = 0.97
    rate: Annotated[float, Parameter(validator=(_a_number, Number(gt=0, lt=1)))] = 3e-5
    step_ms: Annotated[float, Parameter(validator=(_a_number, Number(gte=0, lte=60_000)))] = 25.0
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0
    fresh: Flag = False
    plain: Flag = False


def demo(options: Annotated[Options, Parameter(name="*")] = Options()) -> int:
    """Train a network on scans of digits while its checkpoints are written beside it.

    Stop it with Ctrl-C, or kill it any way you like, and start it again: it goes on where the newest
    checkpoint is, and ends with the same bytes as a run that nobody disturbed.
    """
    import asyncio  # noqa: PLC0415 - as light as the module promises to be
    import warnings  # noqa: PLC0415

    # One thread adds up in the same order on any number of cores, and leaves the others to the writers.
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415

    from async_ckpt.cli.demo.run import run  # noqa: PLC0415 - numpy and the session

    with threadpool_limits(limits=1, user_api="blas"), warnings.catch_warnings():
        # The display says it, in a line that is no line of source.
        warnings.filterwarnings("ignore", "the checkpoint of step .* was passed over", RuntimeWarning)
        return asyncio.run(run(options))
