"""What a step costs at which nothing is due, and what one listener call costs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.records import Job, Run
from benchmarks.step_overhead import figures

__all__ = ["measure"]


async def measure(job: Job, run: Run, directory: Path) -> None:
    """Seconds a call, one figure for each round; see :func:`benchmarks.step_overhead.figures`."""
    run.values = await figures(directory, job.repeats)
