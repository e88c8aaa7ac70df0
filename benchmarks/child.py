"""One measured process: ``python -m benchmarks.child JOB RUN DIRECTORY`` reads the job and writes the run."""

from __future__ import annotations

import asyncio
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records import Job, Run
from benchmarks.systems.base import UnavailableError

__all__ = ["main"]


async def perform(job: Job, directory: Path) -> Run:
    """Measure, and turn whatever goes wrong into the run's error; what was measured before it stays."""
    run = Run(job=job)
    try:
        experiment: Any = importlib.import_module(f"benchmarks.experiments.{job.experiment}")
        await experiment.measure(job, run, directory)
    except UnavailableError as error:
        run.error = str(error)
    except BaseException as error:  # noqa: BLE001 - the page tells it
        traceback.print_exc()
        run.error = f"{type(error).__name__}: {error}"
    return run


def main() -> None:
    """See the module's docstring."""
    job_file, run_file, directory = map(Path, sys.argv[1:4])
    job = msgspec.json.decode(job_file.read_bytes(), type=Job)
    run = asyncio.run(perform(job, directory))
    run_file.write_bytes(msgspec.json.encode(run))


if __name__ == "__main__":
    main()
