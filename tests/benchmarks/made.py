"""Results that nobody measured, for tests of what is made from them."""

from __future__ import annotations

from typing import Any

from benchmarks.plan import QUICK
from benchmarks.records import Job, Machine, Results, Run, Save

REFERENCE = QUICK.reference
SIZE = 23_491_584


def save(stall: float | None, durable: float | None, state: str = REFERENCE, **more: Any) -> Save:
    fields: dict[str, Any] = {"bytes": SIZE, "unsynced": 0.0, "gap": 0.001, "gap_p999": 0.001} | more
    return Save(state=state, stall=stall, durable=durable, **fields)


def saves(system: str, *pairs: tuple[float | None, float | None], round: int = 0, **more: Any) -> Run:  # noqa: A002
    """A run of one system on the reference state, given stall and durable of each save."""
    job = Job(experiment="save", system=system, states=(REFERENCE,), round=round)
    return Run(job=job, saves=[save(stall, durable) for stall, durable in pairs], **more)


def values(experiment: str, system: str = "ours-copy", **found: list[float]) -> Run:
    job = Job(experiment=experiment, system=system, states=(REFERENCE,))
    return Run(job=job, values=dict(found))


def results(*runs: Run, quick: bool = True) -> Results:
    machine = Machine(
        processor="a processor",
        cores=2,
        memory=2**34,
        kernel="Linux 6",
        disk="ext4 on vda",
        python="CPython 3.11",
        versions={"numpy": "2"},
    )
    return Results(
        command="nox -s bench",
        began="2020-01-01 00:00 UTC",
        seconds=60.0,
        quick=quick,
        revision="abc",
        machine=machine,
        runs=list(runs),
    )
