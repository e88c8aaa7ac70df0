"""TensorFlow's own behaviour, recorded, against ours: the same trace, or a deviation with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.deviations import DEVIATIONS, Life
from tests.conformance.world import World

RECORDED = json.loads(Path(__file__).with_name("tf_traces.json").read_text("utf-8"))
CASES: list[dict[str, Any]] = RECORDED["cases"]


def expected(case: dict[str, Any], life: int) -> Life:
    """What life number ``life`` of the case has to do here."""
    ours = DEVIATIONS[case["id"]].lives[life] if case["id"] in DEVIATIONS else None
    theirs = case["tf"][life]
    return ours or Life(theirs["trace"], theirs["files"])


@pytest.mark.asyncio
@pytest.mark.parametrize("plain", [False, True], ids=["coroutines", "plain"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
async def test_a_recorded_case(case: dict[str, Any], plain: bool, tmp_path: Path) -> None:
    for life, phase in enumerate(case["phases"]):
        world = World(phase, tmp_path / "run", plain=plain)
        trace, files = await world.live()
        wanted = expected(case, life)
        assert trace == wanted.trace
        assert files == wanted.files


def test_every_deviation_names_a_case_and_differs_from_it() -> None:
    cases = {case["id"]: case for case in CASES}
    for name, deviation in DEVIATIONS.items():
        theirs = cases[name]["tf"]
        assert len(deviation.lives) == len(theirs), name
        assert len(deviation.reason) > 20, name
        differs = [
            ours.trace != tf["trace"] or ours.files != tf["files"]
            for ours, tf in zip(deviation.lives, theirs, strict=True)
            if ours is not None
        ]
        assert differs, name
        assert all(differs), f"{name} gives TensorFlow's trace: it is no deviation"


def test_every_quirk_of_tensorflow_is_a_deviation() -> None:
    quirks = {case["id"] for case in CASES if "quirk" in case}
    assert quirks <= DEVIATIONS.keys()


def test_every_case_is_recorded_whole() -> None:
    assert len(CASES) == 45
    for case in CASES:
        assert len(case["phases"]) == len(case["tf"])
        for recorded in case["tf"]:
            assert recorded["latest"] == (max(recorded["files"]) if recorded["files"] else None)
