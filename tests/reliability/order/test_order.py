"""Every path of the local store, as ``strace`` saw it, keeps the order that makes a checkpoint durable."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from async_ckpt.storage.names import step_name
from tests.reliability.order.log import CALLS, Operation, read_log
from tests.reliability.order.paths import PATHS
from tests.reliability.order.rules import check
from tests.reliability.tier import counting, pick
from tests.reliability.tracing.children import bare

FAILING = {
    "nothing fails": [],
    "a thread's first fsync fails": ["-e", "inject=fsync:error=EIO:when=1"],
    "a thread's second fsync fails": ["-e", "inject=fsync:error=EIO:when=2"],
    "a thread's third fsync and what follows fail": ["-e", "inject=fsync:error=EIO:when=3+"],
}
STRACE = ["strace", "-f", "-y", "-qq", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}"]


def carry_out(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"


def traced(place: Path, inject: list[str]) -> dict[str, list[Operation]]:
    """Carry out all scenarios in a child; gives the operations of each."""
    log, module = place / "log", "tests.reliability.order.straced"
    carry_out(bare(module, "prepare", str(place), *PATHS))
    carry_out([*STRACE, *inject, "-o", str(log), *bare(module, "perform", str(place), *PATHS)])
    parts: dict[str, list[Operation]] = {}
    inside: list[Operation] | None = None
    with log.open(encoding="utf-8", errors="surrogateescape") as lines:
        for op in read_log(lines):
            if op.kind == "mark" and op.path.startswith("scenario/"):
                name = op.path.removeprefix("scenario/")
                inside = None if name == "over" else parts.setdefault(name, [])
            elif inside is not None:
                inside.append(op)
    return parts


@pytest.mark.parametrize("failing", [*FAILING][: pick(2, 4, 4)])
def test_the_order_of_every_path(
    failing: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with counting(record_property, "order", f"paths, {failing}") as tally:
        if shutil.which("strace") is None:
            tally.skip("strace is not installed")
        place = Path(os.path.realpath(tmp_path))
        parts = traced(place, FAILING[failing])
        assert parts.keys() == PATHS.keys()
        done = 0
        for name, operations in parts.items():
            scenario = PATHS[name]
            there = {step_name(what.step) for what in scenario.before}
            asked = {"delete", "abandon"} & {what.kind for what in scenario.acts}
            keep = 1 if asked else scenario.options.get("max_to_keep") or 1
            found = check(operations, str(place / name / scenario.below), there, keep)
            assert not found, f"{name}, {failing}:\n" + "\n".join(map(str, found))
            said = [op.path for op in operations if op.kind == "mark" and not op.path.startswith("begin/")]
            assert len(said) == len(scenario.acts), f"{name}: {said}"
            aliens = [text for text in said if "/ALIEN-" in text]
            assert not aliens, f"{name}, {failing}: not errors of our tree: {aliens}"
            done += sum("/ok/" in text for text in said)
            tally.cases += 1
            tally.facts["operations"] = tally.facts.get("operations", 0) + len(operations)
        tally.facts["acts that worked"] = done
        if not FAILING[failing]:
            # All but the one that is refused and the one that is cancelled.
            assert done == sum(len(scenario.acts) for scenario in PATHS.values()) - 2
