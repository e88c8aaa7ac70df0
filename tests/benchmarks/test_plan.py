"""Which jobs there are."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks.plan import COMPARED, FULL, QUICK, Sizes, jobs, rotated, selected
from benchmarks.records import Job
from benchmarks.states import spec
from benchmarks.systems import SYSTEMS


@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_every_job_can_be_looked_up(sizes: Sizes) -> None:
    for job in jobs(sizes):
        assert importlib.util.find_spec(f"benchmarks.experiments.{job.experiment}"), job
        assert job.system in SYSTEMS or job.system == "ours-engine"
        assert all(spec(name).nbytes for name in job.states)


@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_every_system_saves_the_reference_state_in_every_round(sizes: Sizes) -> None:
    for number in range(sizes.rounds):
        done = [
            job.system
            for job in jobs(sizes)
            if job.experiment == "save" and job.states == (sizes.reference,) and job.round == number
        ]
        assert sorted(done) == sorted(COMPARED)


def test_a_timeline_is_kept_in_one_round_only() -> None:
    assert {job.round for job in jobs(FULL) if job.timeline} == {0}


def test_rotation_starts_elsewhere_in_each_round_and_loses_nobody() -> None:
    row = [Job(experiment="save", system=str(number)) for number in range(13)]
    rounds = [rotated(row, number) for number in range(3)]
    assert len({found[0].system for found in rounds}) == 3
    assert all(sorted(job.system for job in found) == sorted(job.system for job in row) for found in rounds)
    assert rotated([], 2) == []


def test_only_selects_by_a_part_of_the_name() -> None:
    row = jobs(FULL)
    assert selected(row, None) == row
    assert {job.system for job in selected(row, "DCP-thread")} == {"dcp-thread"}
    assert selected(row, "nothing of the kind") == []
