"""Runs the jobs, each in a process of its own, and watches it from outside."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.records import Job, Run
from benchmarks.watch import Watch, busy_seconds, peak_between

__all__ = ["perform"]

ROOT = Path(__file__).parent.parent
SAMPLE_SECS = 0.025


def perform(job: Job, directory: Path) -> Run:
    """Run one job below ``directory``; a child that dies or takes too long becomes the run's error."""
    place = Path(tempfile.mkdtemp(prefix="job-", dir=directory))
    began, busy, own = time.perf_counter(), busy_seconds(), _childrens_seconds()
    try:
        run, seen = _child(job, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.sync()
    run.seconds = time.perf_counter() - began
    spent = max(_childrens_seconds() - own, seen)
    others = busy_seconds() - busy - spent
    run.foreign = max(0.0, others / (run.seconds * (os.cpu_count() or 1)))
    return run


def _child(job: Job, place: Path) -> tuple[Run, float]:
    """What came of it, and the processor seconds that it and its own children were seen to use."""
    job_file, run_file, log_file = place / "job.json", place / "run.json", place / "log.txt"
    data = place / "data"
    data.mkdir()
    job_file.write_bytes(msgspec.json.encode(job))
    command = [sys.executable, "-m", "benchmarks.child", str(job_file), str(run_file), str(data)]
    with log_file.open("wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            watch = _wait(child, job.limit_secs)
        finally:
            _end(child)
    if run_file.exists():
        run = msgspec.json.decode(run_file.read_bytes(), type=Run)
    else:
        reason = _last_line(log_file.read_bytes())
        if child.returncode == -signal.SIGKILL:
            reason = f"still running after {job.limit_secs:.0f} s, or killed for its memory; {reason}"
        run = Run(job=job, error=f"ended with {child.returncode}: {reason}")
    found = peak_between(watch.samples, run.marks.get("base", 0.0), run.marks.get("end", 0.0))
    if found is not None:
        run.memory_base, run.memory_peak = found
    return run, watch.used


def _wait(child: subprocess.Popen[bytes], limit_secs: float) -> Watch:
    watch = Watch(child.pid)
    until = time.perf_counter() + limit_secs
    while child.poll() is None and time.perf_counter() < until:
        watch.sample()
        time.sleep(SAMPLE_SECS)
    return watch


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it left behind; they are alone in a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _childrens_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    mine = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime + mine.ru_utime + mine.ru_stime


def _last_line(log: bytes) -> str:
    lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
