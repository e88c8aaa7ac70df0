"""Which jobs a run consists of, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.records import Job

__all__ = [
    "BESIDE_TRAINING",
    "COMPARED",
    "COUNTS",
    "FULL",
    "QUICK",
    "SCALED",
    "Sizes",
    "jobs",
    "rotated",
    "selected",
]

COMPARED = (
    "ours-copy",
    "ours-overlap",
    "ours-window",
    "orbax-numpy",
    "orbax-jax",
    "dcp-thread",
    "dcp-process",
    "dcp-stager",
    "torchsnapshot",
    "safetensors",
    "copyto",
    "direct",
)
COUNTS = (1, 2, 4, 8, 16)
"""Sessions that save at the same time."""

SCALED = ("ours-copy", "direct", "safetensors", "dcp-thread", "orbax-jax")
BESIDE_TRAINING = (
    "ours-copy",
    "orbax-jax",
    "dcp-thread",
    "dcp-process",
    "dcp-stager",
    "torchsnapshot",
    "safetensors",
)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        reference: The state of most measurements.
        many, one: The two others: many small tensors, a single large one.
        by_bytes, by_tensors: States of the two scaling curves, ascending.
        rounds: Of the comparison.
        step_secs: What a step of the overlap measurement computes.
        steps: How many of them are timed at a time.
        warm_up_secs: Between the entry of a session and its first save.
        flat_saves: Saves over which memory is watched.
        session_bytes: Of one of the sessions that save at the same time.
        frozen: A state of which nine tenths never change.
    """

    reference: str
    many: str
    one: str
    by_bytes: tuple[str, ...]
    by_tensors: tuple[str, ...]
    rounds: int
    step_secs: float
    steps: int
    warm_up_secs: float
    flat_saves: int
    session_bytes: int
    frozen: str


FULL = Sizes(
    reference="gpt2",
    many="many-20000",
    one="one-2147483648",
    by_bytes=tuple(f"size-{n}000000" for n in (1, 4, 16, 64, 256, 1000, 4000)),
    by_tensors=tuple(f"many-{n}" for n in (10, 100, 1000, 10_000, 100_000)),
    rounds=3,
    step_secs=0.3,
    steps=20,
    warm_up_secs=5.0,
    flat_saves=50,
    session_bytes=96 * 2**20,
    frozen="frozen-1000000000",
)
QUICK = Sizes(
    reference="gpt2-mini",
    many="many-2000",
    one="one-67108864",
    by_bytes=tuple(f"size-{n}000000" for n in (1, 4, 16)),
    by_tensors=tuple(f"many-{n}" for n in (10, 100, 1000)),
    rounds=2,
    step_secs=0.1,
    steps=5,
    warm_up_secs=0.5,
    flat_saves=10,
    session_bytes=4 * 2**20,
    frozen="frozen-10000000",
)


def jobs(sizes: Sizes) -> list[Job]:
    """All jobs of a run: a round of the comparison, what is measured once, and the other rounds, rotated."""
    first, *others = (rotated(_round(sizes, number), number) for number in range(sizes.rounds))
    return [*first, *_once(sizes), *(job for row in others for job in row)]


def rotated(row: list[Job], number: int) -> list[Job]:
    """The same jobs, starting elsewhere in each round, so that no system always follows the same one."""
    start = number * (len(row) // 3 + 1) % len(row) if row else 0
    return row[start:] + row[:start]


def selected(row: list[Job], only: str | None) -> list[Job]:
    """Those whose name contains ``only``, case aside; all without it."""
    return [job for job in row if only is None or only.lower() in job.name.lower()]


def _round(sizes: Sizes, number: int) -> list[Job]:
    found = [
        Job(
            experiment="save",
            system=system,
            states=(sizes.reference,),
            round=number,
            budget_secs=12,
            timeline=number == 0,
        )
        for system in COMPARED
    ]
    found += [
        Job(experiment="save", system=system, states=(sizes.many,), round=number, budget_secs=8)
        for system in (*COMPARED, "torch-save")
        # These take up to a minute for it: once is enough.
        if number == 0 or not system.startswith(("orbax", "dcp", "torch-save"))
    ]
    if number == 0:
        found += [
            Job(experiment="save", system=system, states=(sizes.one,), budget_secs=8) for system in COMPARED
        ]
    wait = {"wait_secs": sizes.warm_up_secs}
    warmup = Job(
        experiment="warmup", system="ours-copy", states=(sizes.reference,), round=number, numbers=wait
    )
    return [*found, warmup]


def _once(sizes: Sizes) -> list[Job]:
    reference = (sizes.reference,)
    scaled = [
        Job(experiment="save", system=system, states=states, budget_secs=6)
        for states in (sizes.by_bytes, sizes.by_tensors)
        for system in SCALED
    ]
    found = [
        Job(experiment="slowdown", system=system, states=reference, repeats=6, budget_secs=12)
        for system in BESIDE_TRAINING
    ]
    found += [
        Job(experiment="sessions", system=system, numbers={"bytes": sizes.session_bytes})
        for system in ("ours-copy", "ours-engine")
    ]
    steps = {"step_secs": sizes.step_secs, "steps": sizes.steps}
    return [
        Job(experiment="overlap", system="ours-overlap", states=reference, repeats=6, numbers=steps),
        Job(experiment="flat", system="ours-copy", states=reference, repeats=sizes.flat_saves),
        Job(experiment="restore", system="ours-copy", states=reference),
        Job(experiment="reuse", system="ours-copy", states=(sizes.frozen,)),
        Job(experiment="cost", system="ours-copy", repeats=15),
        *found,
        *scaled,
    ]
