"""``python -m benchmarks``: measure, keep the raw results, write the page."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import driver, machine, plan
from benchmarks.page import page
from benchmarks.plots import draw
from benchmarks.records import Job, Results, Run, decode, encode

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"


def main() -> None:
    """See the module's docstring."""
    options = _options()
    row = plan.selected(plan.jobs(plan.QUICK if options.quick else plan.FULL), options.only)
    if options.list:
        print("\n".join(dict.fromkeys(job.name for job in row)))
        return
    out = options.out or (PAGE.parent if not (options.quick or options.only) else ROOT / "runs" / "bench")
    raw = out / "performance" / "results.json"
    if not options.render:
        measure(row, options, raw)
    results = decode(raw.read_bytes())
    drawn = draw(results, raw.parent)
    remarks = raw.with_name("remarks.md")
    said = remarks.read_text(encoding="utf-8") if remarks.exists() else ""
    (out / PAGE.name).write_text(page(results, drawn, said), encoding="utf-8")
    print(f"{out / PAGE.name}, from {raw}")


def measure(row: list[Job], options: argparse.Namespace, raw: Path) -> None:
    """Run the jobs below a directory of their own; say how each went, and keep it, as soon as it ends."""
    began, started = dt.datetime.now(dt.UTC), time.perf_counter()
    options.dir.mkdir(parents=True, exist_ok=True)
    raw.parent.mkdir(parents=True, exist_ok=True)
    results = Results(
        command=" ".join(["nox -s bench", *(["--", *sys.argv[1:]] if sys.argv[1:] else [])]),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=0.0,
        quick=options.quick,
        revision=machine.revision(),
        machine=machine.facts(options.dir),
        runs=[],
    )
    if options.resume:
        results = decode(raw.read_bytes())
        known = [run.job for run in results.runs]
        row = [job for job in row if job not in known]
        started -= results.seconds
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir, ignore_cleanup_errors=True) as name:
        for number, job in enumerate(row, 1):
            run = driver.perform(job, Path(name))
            results.runs.append(run)
            results.seconds = time.perf_counter() - started
            raw.write_bytes(encode(results))
            print(f"[{number}/{len(row)}] round {job.round} {job.name}: {_in_short(run)}", flush=True)


def _in_short(run: Run) -> str:
    parts = [f"{run.seconds:.1f} s"]
    parts += [
        f"{'-' if save.stall is None else format(save.stall, '.3f')}"
        f"/{'-' if save.durable is None else format(save.durable, '.3f')}"
        f"/{save.gap * 1e3:.0f}ms"
        for save in run.saves
    ]
    if run.memory_base is not None and run.memory_peak is not None:
        parts.append(f"+{(run.memory_peak - run.memory_base) / 1e6:.0f} MB")
    parts += [f"{name} {values[-1]:.6g}" for name, values in run.values.items() if values]
    if run.error:
        parts.append(f"FAILED: {run.error}")
    return ", ".join(parts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small states: to try the command")
    parser.add_argument("--only", help="only jobs whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the jobs and measure nothing")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    parser.add_argument("--render", action="store_true", help="write the page from the kept results again")
    parser.add_argument("--dir", type=Path, default=ROOT / "runs", help="where is written to while measuring")
    parser.add_argument("--out", type=Path, help="where performance.md goes; docs/ for a full run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
