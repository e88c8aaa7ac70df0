"""``python -m benchmarks.bit_flip``: one bit of a checkpoint flips on the disk; does its own loader notice?

Each library saves the same arrays once. Then, again and again, one random bit of one of its files is flipped,
the checkpoint is opened by the library's own loader, and the bit is flipped back.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks import machine
from benchmarks.flipping import OUTCOMES, flip_all, state
from benchmarks.records import Machine
from benchmarks.restorers import RESTORERS

__all__ = ["Library", "Results", "decode", "encode", "main", "table"]

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "reliability" / "bit_flip.json"


class Library(Struct, kw_only=True):
    """What became of one library's flips.

    Attributes:
        name: As in ``RESTORERS``.
        version: Of its distribution.
        files: How many files its checkpoint has.
        bytes: Their size together.
        outcomes: For each way of drawing the bit, how often each outcome was seen.
        errors: What it was refused with, by the type's name, and how often.
        error: Why there is nothing to count, or None.
    """

    name: str
    version: str
    files: int = 0
    bytes: int = 0
    outcomes: dict[str, dict[str, int]] = {}
    errors: dict[str, int] = {}
    error: str | None = None


class Results(Struct, kw_only=True):
    """A run, as it is kept."""

    command: str
    began: str
    seconds: float
    revision: str
    machine: Machine
    seed: int
    flips: dict[str, int]
    state: dict[str, list[int]]
    libraries: list[Library]


def main() -> None:
    """See the module's docstring."""
    options = _options()
    if options.child:
        flip_all(options.child, Path(options.dir), options.seed, options.flips, options.start)
        return
    began, started = dt.datetime.now(dt.UTC), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bit-flip-", dir=options.dir) as place:
        found = [_library(name, Path(place), options) for name in options.only or RESTORERS]
        facts = machine.facts(Path(place))
    results = Results(
        command=" ".join(["python -m benchmarks.bit_flip", *sys.argv[1:]]),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=round(time.perf_counter() - started, 1),
        revision=machine.revision(),
        machine=facts,
        seed=options.seed,
        flips=dict(zip(("byte", "file"), options.flips, strict=True)),
        state={name: list(array.shape) for name, array in state().items()},
        libraries=found,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encode(results))
    print(table(results))


def _library(name: str, place: Path, options: argparse.Namespace) -> Library:
    """Run one library in a process of its own, and start another one where that one died."""
    directory = place / name.replace(" ", "-")
    directory.mkdir()
    library = Library(name=name, version=machine.version(RESTORERS[name].package) or "not installed")
    counts = {draw: Counter[str]() for draw in ("byte", "file")}
    errors: Counter[str] = Counter()
    total, done = sum(options.flips), 0
    while done < total:
        lines = list(_lines(name, directory, options, done))
        for line in lines:
            if "files" in line:
                library.files, library.bytes = line["files"], line["bytes"]
            else:
                counts[line["draw"]][line["outcome"]] += 1
                errors.update([line["error"]] if line["error"] else [])
                done += 1
        if done < total:
            if not lines:
                library.error = "could not be run: " + _last_line(directory / "said")
                return library
            draw = "byte" if done < options.flips[0] else "file"
            counts[draw]["died"] += 1
            done += 1
    library.outcomes = {draw: {o: found[o] for o in OUTCOMES} for draw, found in counts.items()}
    library.errors = dict(errors.most_common())
    print(f"{name}: {library.outcomes}", flush=True)
    return library


def _lines(name: str, directory: Path, options: argparse.Namespace, start: int) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.bit_flip", "--child", name, "--dir", str(directory)]
    command += ["--seed", str(options.seed), "--start", str(start), "--flips", *map(str, options.flips)]
    with (
        (directory / "said").open("ab") as said,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1][:200] if lines else "no reason given"


def encode(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def decode(data: bytes) -> Results:
    return msgspec.json.decode(data, type=Results)


_HEAD = """\
| library | restored wrong, in silence | refused | restored right | died |
|---|---|---|---|---|"""

_SAID = """\
Each library saved the same {arrays} float32 arrays ({megabytes:.1f} MB) once. The first figure is of {byte}
flips, every bit of its files being equally likely; the one in brackets is of {file}, for which first a
file was drawn and then a bit of it, which puts more of them into metadata. Each time the checkpoint was
copied, one bit was flipped, the library's own loader opened it, and every array was compared bit by bit.

What it does not say: a bit that flips while the file is written, in memory or on the way to the disk, was
not tried, nor a file system that checks its own blocks, which would have found all of these. *Restored
right* means that the bit did not matter to the loader: padding, a name it does not need, or, here, the header
of a tensor file, which `Saver.verify` reads and `Saver.restore` does not. Only one bit at a time, only small
float32 arrays, only the versions above. None of the others promises to find damage. Orbax lays its files out
anew at every save, so its figures differ by one or two in a hundred from run to run with the same seed.

`{command}`, seed {seed}, {began}, revision {revision}, {python}, {kernel}."""


def table(results: Results) -> str:
    """Give the comparison in Markdown: a table, and what it does not say."""
    said = _SAID.format(
        arrays=len(results.state),
        megabytes=sum(4 * math.prod(shape) for shape in results.state.values()) / 1e6,
        byte=results.flips["byte"],
        file=results.flips["file"],
        command=results.command,
        seed=results.seed,
        began=results.began,
        revision=results.revision,
        python=results.machine.python,
        kernel=results.machine.kernel,
    )
    return "\n".join((_HEAD, *map(_row, results.libraries), "", said))


def _row(library: Library) -> str:
    label = f"{library.name} {library.version}: {RESTORERS[library.name].calls}"
    if library.error:
        return f"| {label} | {library.error} | | | |"
    cells = (
        f"{library.outcomes['byte'][outcome]} ({library.outcomes['file'][outcome]})"
        for outcome in ("silent", "refused", "harmless", "died")
    )
    return f"| {label} | {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bit_flip", description=__doc__)
    parser.add_argument("--flips", type=int, nargs=2, default=[1000, 200], metavar=("BYTE", "FILE"))
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--only", nargs="*", choices=RESTORERS, help="only these libraries")
    parser.add_argument("--dir", help="where is written to while measuring; else a temporary one")
    parser.add_argument("--out", type=Path, default=KEPT, help="where the results are kept")
    parser.add_argument("--child", choices=RESTORERS, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
