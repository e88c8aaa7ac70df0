"""``python -m benchmarks.power_cut``: the power goes; is the checkpoint there that was called saved?

Each library saves four times, into an ext4 file system whose disk remembers every write. Then the disk is put
together as a power cut at a random moment leaves it, again and again, and the library's own loader opens what
is there. Root, a loop device, nbdkit and nbdfuse are needed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks import machine
from benchmarks.cutting import OUTCOMES, SAVERS, open_all, save_all
from benchmarks.disk.logged import cannot, logged_disk, mounted
from benchmarks.disk.replay import read_log
from benchmarks.records import Machine

__all__ = ["Library", "Results", "decode", "encode", "main", "table"]

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "reliability" / "power_cut.json"
MIB = 64


class Library(Struct, kw_only=True):
    """What became of one library's checkpoints.

    Attributes:
        name: As in ``SAVERS``.
        version: Of its distribution.
        writes: Writes in the log, over all seeds.
        outcomes: How many cuts had each outcome.
        errors: What the newest acknowledged one was refused with, by the type's name, and how often.
        error: Why there is nothing to count, or None.
    """

    name: str
    version: str
    writes: int = 0
    outcomes: dict[str, int] = {}
    errors: dict[str, int] = {}
    error: str | None = None


class Results(Struct, kw_only=True):
    """A run, as it is kept."""

    command: str
    began: str
    seconds: float
    revision: str
    machine: Machine
    seeds: list[int]
    cuts: int
    saves: int
    pause_secs: float
    after_secs: float
    libraries: list[Library]


def main() -> None:
    """See the module's docstring."""
    options = _options()
    if options.child == "save":
        pauses = [options.pause] * (options.saves - 1) + [options.after]
        save_all(options.library, Path(options.dir), pauses, Path(options.log))
        return
    if options.child == "open":
        open_all(options.library)
        return
    if (why := cannot()) is not None:
        sys.exit(f"power cuts cannot be tried here: {why}")
    began, started = dt.datetime.now(dt.UTC), time.perf_counter()
    names = options.only or list(SAVERS)
    found = {name: _library(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir=options.dir) as place:
        facts = machine.facts(Path(place))
        for seed in options.seeds:
            # They mostly wait for the kernel to write by itself, so they do it side by side.
            with ThreadPoolExecutor(len(names)) as pool:
                jobs = {name: pool.submit(_record, name, Path(place), seed, options) for name in names}
            for name, job in jobs.items():
                _judge(found[name], job.result(), Path(place), seed, options)
                print(f"seed {seed}, {name}: {found[name].outcomes or found[name].error}", flush=True)
    results = Results(
        command=" ".join(["python -m benchmarks.power_cut", *_words(sys.argv[1:])]),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        seconds=round(time.perf_counter() - started, 1),
        revision=machine.revision(),
        machine=facts,
        seeds=options.seeds,
        cuts=options.cuts,
        saves=options.saves,
        pause_secs=options.pause,
        after_secs=options.after,
        libraries=list(found.values()),
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encode(results))
    print(table(results))


def _words(given: list[str]) -> list[str]:
    """What was asked for, without the places of one machine."""
    places = {number for number, word in enumerate(given) if word in ("--dir", "--out")}
    return [word for number, word in enumerate(given) if not {number, number - 1} & places]


def _library(name: str) -> Library:
    version = machine.version(SAVERS[name].package) or "not installed"
    return Library(name=name, version=version, outcomes=dict.fromkeys(OUTCOMES, 0))


def _record(name: str, place: Path, seed: int, options: argparse.Namespace) -> Path | str:
    """Let one library save; gives where its disk is, or why there is none."""
    own = place / f"{seed}-{name.replace(' ', '-').replace('/', '-')}"
    own.mkdir()
    # Where in the kernel's half minute the saves fall differs from seed to seed.
    time.sleep(random.Random(f"{seed}").random() * options.pause)
    try:
        with logged_disk(own, mib=MIB) as disk:
            done = _child("save", name, options, dir=disk.root, log=disk.log)
            # What is written once the file system is taken down belongs to no power cut.
            (own / "said").write_text(done.stdout + json.dumps({"step": 0, "position": disk.position()}))
    except OSError as error:
        return str(error)
    if done.returncode:
        return f"could not be run: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:200]}"
    return own


def _child(
    what: str, name: str, options: argparse.Namespace, **more: Any
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.power_cut", "--child", what, "--library", name]
    command += ["--saves", str(options.saves), "--pause", str(options.pause), "--after", str(options.after)]
    for key, value in more.items():
        command += [f"--{key}", str(value)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _judge(
    library: Library, recorded: Path | str, place: Path, seed: int, options: argparse.Namespace
) -> None:
    if isinstance(recorded, str):
        library.error = recorded
        return
    said = [json.loads(line) for line in (recorded / "said").read_text().splitlines()]
    log = read_log(recorded / "log")
    library.writes += log.writes
    # Only moments at which something has been acknowledged: before that nothing can be lost.
    *said, over = said
    cuts = [cut for cut in log.cuts() if said[0]["position"] <= log.position(*cut) <= over["position"]]
    rng = random.Random(f"{seed} cuts")
    chosen = [(epoch, count, False) for epoch, count in sorted(rng.choices(cuts, k=options.cuts))]
    counts, errors = Counter[str](library.outcomes), Counter[str](library.errors)
    root, image_file = place / "again", recorded / "state.img"
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.power_cut", "--child", "open", "--library", library.name]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def opened(image: Path, step: int) -> dict[str, Any]:
            with mounted(image, root):
                child.stdin.write(json.dumps({"directory": str(root), "step": step}) + "\n")  # type: ignore[union-attr]
                child.stdin.flush()  # type: ignore[union-attr]
                answer: dict[str, Any] = json.loads(child.stdout.readline() or '{"outcome": "died"}')  # type: ignore[union-attr]
                return answer

        # The control: what was taken down in order comes back, or nothing here says anything.
        control = opened(recorded / "disk.img", said[-1]["step"])
        if control["outcome"] != "intact":
            library.error = f"does not come back without a power cut: {control}"
            return
        for (epoch, count, _), image in log.states(recorded / "base.img", chosen, rng):
            image.tofile(image_file)
            step = max(line["step"] for line in said if line["position"] <= log.position(epoch, count))
            answer = opened(image_file, step)
            counts[answer["outcome"]] += 1
            errors.update([answer["error"]] if answer["error"] else [])
        child.stdin.close()
    library.outcomes = {outcome: counts[outcome] for outcome in OUTCOMES}
    library.errors = dict(errors.most_common())
    image_file.unlink()


def encode(results: Results) -> bytes:
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def decode(data: bytes) -> Results:
    return msgspec.json.decode(data, type=Results)


_HEAD = """\
| library | newest acknowledged one lost | of these, an older one instead | wrong, in silence | intact |
|---|---|---|---|---|"""

_SAID = """\
Each library saved 4 float32 arrays (0.3 MB) {saves} times, {pause:g} s apart, each time under a new name,
into ext4 with its default options on a disk of {mib} MiB, and then waited {after:g} s. The disk was put
together as it may be after a power cut: everything that was flushed before the moment, and each 4 KiB block
that was not with even odds. For each of {seeds} seeds {cuts} moments were drawn from all writes to the disk
after the first acknowledged save; the kernel recovered the journal, and the library's own loader opened the
checkpoint that was the newest acknowledged one at that moment. *Lost*: it is not there, or its loader refuses
it. *Wrong, in silence*: it came back, and was not what had been saved.

What it does not say: moments are drawn over writes, not over time, so those at which much is written weigh
more; moments within one log are not independent. It is one file system with its default options and a quiet
disk: with another commit interval, after the half minute in which the kernel writes by itself, or after
`sync`, what the others saved is there. None of them promises to survive a power cut. The variants of
`torch.save` are recipes that people write, and not torch's.

`{command}`, {began}, revision {revision}, {python}, {kernel}."""


def table(results: Results) -> str:
    """Give the comparison in Markdown: a table, and what it does not say."""
    said = _SAID.format(
        saves=results.saves,
        pause=results.pause_secs,
        after=results.after_secs,
        mib=MIB,
        seeds=len(results.seeds),
        cuts=results.cuts,
        command=results.command,
        began=results.began,
        revision=results.revision,
        python=results.machine.python,
        kernel=results.machine.kernel,
    )
    return "\n".join((_HEAD, *map(_row, results.libraries), "", said))


def _row(library: Library) -> str:
    label = f"{library.name} {library.version}: {SAVERS[library.name].calls}"
    if library.error:
        return f"| {label} | {library.error} | | | |"
    counts = library.outcomes
    total = sum(counts.values())
    lost = counts["refused"] + counts["missing"] + counts["older"] + counts["died"]
    return f"| {label} | {lost} of {total} | {counts['older']} | {counts['silent']} | {counts['intact']} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power_cut", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cuts", type=int, default=200, help="moments per seed")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--pause", type=float, default=6.5, help="seconds between two saves")
    parser.add_argument("--after", type=float, default=16.0, help="seconds behind the last one")
    parser.add_argument("--only", nargs="+", choices=list(SAVERS), help="only these libraries")
    parser.add_argument("--dir", default=None, help="where the disks lie")
    parser.add_argument("--out", type=Path, default=KEPT, help="where the results go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
