"""Bytes from strangers, millions of them: each decoder gives a value that holds, or an error of ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import async_ckpt
from tests.reliability.tier import SEED, counting, pick

from .checkpoints import KINDS, make
from .mutating import mutants
from .targets import TARGETS

TIER = "hostile bytes"
HERE = Path(__file__).parent
PATHS = [str(Path(async_ckpt.__file__).parents[1]), str(HERE.parents[2])]
KEPT = HERE.parents[1] / "seeds" / "hostile_bytes"
"""Findings of earlier runs, by target: they are part of every corpus."""

PARTS = 2
QUICK = 1500
INPUTS = {"manifest": 600_000, "report": 300_000, "header": 500_000, "json": 400_000, "names": 200_000}
"""Inputs in CI, two million together."""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each target a directory of real inputs, taken from three real checkpoints, and kept findings."""
    made = {name: tmp_path_factory.mktemp(name) for name in TARGETS}
    for name, target in TARGETS.items():
        for number, data in enumerate(target.seeds):
            (made[name] / f"seed-{number}").write_bytes(data)
        for file in sorted(KEPT.glob(f"{name}/*")):
            (made[name] / f"kept-{file.name}").write_bytes(file.read_bytes())
    for kind in KINDS:
        for file in make(tmp_path_factory.mktemp("run"), kind).files():
            data, called = file.read_bytes(), f"{kind} {file.name}".replace(" ", "-")
            if file.suffix == ".json":
                target = TARGETS[file.stem]
                (made[file.stem] / called).write_bytes(data[target.skip : -target.drop])
                (made["json"] / called).write_bytes(data)
            else:
                (made["header"] / called).write_bytes(data[: 8 + len(data[8:].split(b"  ")[0])])
                (made["header"] / f"padded-{called}").write_bytes(data[:4096])
    return made


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_real_bytes_are_read_or_refused(
    name: str, corpora: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    target = TARGETS[name]
    seeds = [file.read_bytes() for file in sorted(corpora[name].iterdir())]
    with counting(record_property, TIER, f"mutations of {name}, in process") as tally:
        judged = {}
        for data in (*seeds, *mutants(seeds, target.tokens, SEED, pick(QUICK, 5 * QUICK, 50 * QUICK))):
            try:
                judged[data] = target.judge(data)
            except Exception as error:
                error.add_note(f"to see it again: TARGETS[{name!r}].judge({data!r})")
                raise
            tally.cases += 1
        tally.distinct = len(judged)
        accepted = sum(judged.values())
        tally.facts["accepted"] = accepted
        assert 0 < accepted < len(judged), "a run that accepts all or nothing has tried little"


@pytest.mark.skipif(pick(True, False, False), reason="a part of nox -s reliability")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzed_bytes_are_read_or_refused(
    name: str,
    part: int,
    corpora: dict[str, Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    runs = INPUTS[name] // PARTS * pick(1, 1, 10)
    with counting(record_property, TIER, f"inputs for {name}") as tally:
        told = fuzz(name, runs, SEED % 10_000 * 10 + part, corpora[name], tmp_path)
        tally.cases = told.pop("runs")
        tally.facts |= told
        assert tally.cases == runs
        assert told["slowest_ms"] < 5000
        assert told["peak_mib"] < 1024


def fuzz(name: str, runs: int, seed: int, corpus: Path, place: Path) -> dict[str, Any]:
    """Run the fuzzer in a process of its own; a finding fails with the bytes to see it again."""
    own = place / "corpus"
    own.mkdir()
    for file in corpus.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    findings = place / "findings"
    findings.mkdir()
    script = HERE / "fuzzing.py"
    command = [sys.executable, str(script), name, str(runs), str(seed), str(own), str(findings)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True, check=False)
    finding = findings / "finding"
    data = finding.read_bytes() if finding.exists() else b""
    if done.returncode or data:
        said = "\n".join(done.stderr.splitlines()[-25:])
        pytest.fail(f"to see it again: TARGETS[{name!r}].judge({data!r}), seed {seed}\n{said}", pytrace=False)
    told: dict[str, Any] = json.loads((findings / "told.json").read_text(encoding="utf-8"))
    return told


def test_the_run_says_which_fuzzer_it_had(record_property: Callable[[str, object], None]) -> None:
    """Seeded mutations stand in where atheris is not installed; two million of them find less."""
    with counting(record_property, TIER, "coverage-guided fuzzers") as tally:
        if importlib.util.find_spec("atheris") is None:
            tally.skip("atheris is not installed (group 'reliability'): seeded mutations did its runs")
        tally.cases = 1
