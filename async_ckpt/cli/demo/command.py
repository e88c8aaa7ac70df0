"""``async-ckpt demo``: its options. What it does is in :mod:`async_ckpt.cli.demo.run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import number, whole_number

if TYPE_CHECKING:
    import argparse

__all__ = ["Options", "arguments", "demo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one run; see :func:`arguments`."""

    directory: Path = Path("runs/demo")
    hidden: int = 512
    steps: int = 2000
    save_steps: int = 20
    stop_at: float = 0.97
    rate: float = 3e-5
    step_ms: float = 25.0
    seed: int = 0
    fresh: bool = False
    plain: bool = False


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`demo` takes: the attributes of :class:`Options`."""
    count = whole_number(least=1)
    said = "where the checkpoints go; a run found there is resumed"
    parser.add_argument("--dir", dest="directory", type=Path, metavar="DIR", help=f"{said} (%(default)s)")
    for name, kind, said in (
        ("--hidden", count, "width of the two hidden layers, and so the size of a checkpoint"),
        ("--steps", count, "last step of the run"),
        ("--save-steps", count, "steps from one checkpoint to the next"),
        (
            "--stop-at",
            number(least=0, most=1),
            "accuracy on held-out scans, from 0 to 1, at which the listener votes to stop; 0 is never",
        ),
        ("--rate", number(above=0, below=1), "learning rate"),
        (
            "--step-ms",
            number(least=0, most=60_000),
            "least time a step takes, in milliseconds, so that there is something to watch",
        ),
        ("--seed", whole_number(least=0), "seed of a new run"),
    ):
        parser.add_argument(name, type=kind, metavar="N", help=f"{said} (%(default)s)")
    said = "begin anew; checkpoints found there are set aside, not deleted"
    parser.add_argument("--fresh", action="store_true", help=said)
    parser.add_argument("--plain", action="store_true", help="plain lines instead of the panel")
    standard = Options()
    parser.set_defaults(**{name: getattr(standard, name) for name in Options.__slots__})


def demo(**options: Any) -> int:
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
        return asyncio.run(run(Options(**options)))
