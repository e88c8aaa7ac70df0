"""``reuse_unchanged``: a state of which nine tenths never change."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np

from benchmarks import states
from benchmarks.records import Job, Run
from benchmarks.systems.ours import make_saver
from benchmarks.threads import Thread

__all__ = ["measure"]

_WRITTEN = re.compile(r"^write_bytes: (\d+)", re.MULTILINE)


async def measure(job: Job, run: Run, directory: Path) -> None:
    """``…_durable`` in seconds, ``…_written`` in bytes that went to the disk; the first save writes all."""
    worker = Thread("bench")
    spec = states.spec(job.states[0])
    state = await worker.call(states.build, spec)
    run.values["bytes"] = [float(spec.nbytes)]
    async with make_saver(directory, reuse_unchanged=True) as saver:
        for step in range(1, job.repeats + 3):
            for array in state["tuned"].values():
                np.add(array, 1.0, out=array)
            written, began = _written(), time.perf_counter()
            await saver.save(state, step)
            kind = "whole" if step == 1 else "reused"
            run.values.setdefault(f"{kind}_durable", []).append(time.perf_counter() - began)
            run.values.setdefault(f"{kind}_written", []).append(float(_written() - written))
    worker.close()


def _written() -> int:
    found = _WRITTEN.search(Path("/proc/self/io").read_text(encoding="ascii"))
    return int(found[1]) if found else 0
