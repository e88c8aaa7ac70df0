"""What is done under a tracer: short scripts that together take every path of the local store.

Carried out in a child. Whatever an act came to is said by :func:`mark`: a harmless system call that every
tracer sees at its place among those of the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from async_ckpt import CheckpointError, Saver
from async_ckpt.storage import posix

__all__ = [
    "CALM",
    "HOT",
    "MARK",
    "SCENARIOS",
    "SCRIPTS",
    "SHORT",
    "Act",
    "Scenario",
    "act",
    "file_system_of",
    "mark",
    "perform",
    "prepare",
    "read_code",
    "state_of",
]

MARK = "/async-ckpt-mark/"
CALM, HOT = "calm", "hot"
"""From the one mark to the other nothing is counted and nothing is hit."""
LARGE = (1 << 20) // 8 + 600
"""Values of an array that goes past the page cache, with a tail that cannot."""


class Act(NamedTuple):
    """One thing that is asked of a saver.

    Attributes:
        kind: Which one; a method of :class:`Actor`.
        step: Of which checkpoint; -1 where that has no meaning.
        code: What is saved, a number that no other save of the script has.
    """

    kind: str
    step: int = -1
    code: int = 0


def act(text: str) -> tuple[Act, ...]:
    """Read acts: ``"save 1, pin 1, close"``; every one gets a code of its own."""
    words = [part.split() for part in text.split(",") if part.strip()]
    return tuple(
        Act(kind, int(rest[0]) if rest else -1, int(rest[0]) * 100 + place if rest else 0)
        for place, (kind, *rest) in enumerate(words, 1)
    )


@dataclass(frozen=True)
class Scenario:
    """A script.

    Attributes:
        name: What it is called.
        acts: What is done under the tracer.
        before: What was done before, by a process that has ended.
        options: Of the saver.
        shape: Which state; see :func:`state_of`.
        below: Where the checkpoints lie, below a directory that is there.
        left: Names that a dead writer left, each a directory with a file in it.
        exchanges: Whether the file system can exchange two names.
    """

    name: str
    acts: tuple[Act, ...]
    before: tuple[Act, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    shape: str = "small"
    below: str = "runs"
    left: tuple[str, ...] = ()
    exchanges: bool = True


LEFT = (
    ".tmp-step-00000003-00000000000000aa",
    ".trash-step-00000001-00000000000000bb",
    ".trash-replaced-step-00000002-00000000000000cc",
)
ALL = {"max_to_keep": None}

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("fresh", act("save 1, save 2, save 3, list, close"), below="new/as well/runs"),
        Scenario("prune", act("save 2, save 3, close"), act("save 1"), {"max_to_keep": 1}),
        Scenario("overwrite", act("save 2, save 2, close"), act("save 1, save 2"), ALL),
        Scenario("stand-in", act("save 2, save 2, close"), act("save 1, save 2"), ALL, exchanges=False),
        Scenario("report", act("save 2, report 2, report 2, close"), act("save 1"), ALL),
        Scenario("pins", act("pin 1, pin 1, delete 1, unpin 1, delete 1, close"), act("save 1, save 2"), ALL),
        Scenario("resume", act("restore, save 3, close"), act("save 1, save 2"), ALL, left=LEFT),
        Scenario(
            "abandon", act("pin 3, restore 1, abandon 1, save 2, close"), act("save 1, save 2, save 3"), ALL
        ),
        Scenario("cancel", act("cancel 2, save 3, close"), act("save 1"), ALL),
        Scenario("large", act("save 2, restore, close"), act("save 1"), {"max_to_keep": 1}, shape="large"),
        Scenario(
            "reuse",
            act("save 2, save 3, close"),
            act("save 1"),
            {"max_to_keep": 1, "reuse_unchanged": True},
            shape="frozen",
        ),
    )
}


SHORT = {
    scenario.name: scenario
    for scenario in (
        Scenario("short-fresh", act("save 1"), below="new/runs"),
        Scenario("short-prune", act("save 2, close"), act("save 1"), {"max_to_keep": 1}),
        Scenario("short-overwrite", act("calm, open, hot, save 2"), act("save 1, save 2"), ALL),
        Scenario(
            "short-stand-in", act("calm, open, hot, save 2"), act("save 1, save 2"), ALL, exchanges=False
        ),
        Scenario("short-report", act("calm, open, report 1, hot, report 1"), act("save 1"), ALL),
        Scenario("short-pins", act("calm, open, hot, pin 1, unpin 1, delete 1"), act("save 1, save 2"), ALL),
        Scenario("short-resume", act("restore, open"), act("save 1, save 2"), ALL, left=LEFT),
        Scenario("short-abandon", act("pin 2, calm, open, hot, abandon 1"), act("save 1, save 2"), ALL),
        Scenario("short-cancel", act("calm, open, hot, cancel 2"), act("save 1"), ALL),
        Scenario("short-large", act("calm, open, hot, save 2, restore"), act("save 1"), ALL, shape="large"),
        Scenario(
            "short-reuse",
            act("calm, save 1, hot, save 2"),
            options={"max_to_keep": 1, "reuse_unchanged": True},
            shape="frozen",
        ),
    )
}
"""The same paths, each once, for what takes many runs; every one ends with an open saver or a closed one."""

SCRIPTS = SCENARIOS | SHORT


def state_of(shape: str, code: int) -> dict[str, Any]:
    """Give the state that is saved under a code."""
    state: dict[str, Any] = {"model": {"w": np.full(16, float(code))}, "note": str(code)}
    if shape == "large":
        state["optimizer"] = {"m": np.full(LARGE, float(code))}
    if shape == "frozen":
        state["frozen"] = {"e": np.arange(300.0)}
    return state


def read_code(shape: str, state: Any) -> int:
    """Say under which code a state was saved; an ``AssertionError`` if it is not wholly that one."""
    code = int(state["model"]["w"][0])
    expected = state_of(shape, code)
    assert state.keys() == expected.keys()
    assert state["note"] == expected["note"]
    for group in expected.keys() - {"note"}:
        for name, value in expected[group].items():
            assert np.array_equal(state[group][name], value), f"{group}/{name} is not of code {code}"
    return code


def mark(*words: object) -> None:
    """Say something to the tracer."""
    os.access(MARK + "/".join(map(str, words)), os.F_OK)


class Actor:
    """Carries out acts, with one saver until that is closed."""

    def __init__(self, scenario: Scenario, base: Path) -> None:
        self.scenario = scenario
        self.root = base / scenario.below
        self.saver: Saver | None = None

    async def perform(self, what: Act) -> object:
        """Carry out one act; gives what it found, and raises what it raised."""
        if self.saver is None:
            self.saver = Saver(self.root, **self.scenario.options)
        return await getattr(self, f"_{what.kind}")(self.saver, what)

    async def _save(self, saver: Saver, what: Act) -> None:
        await saver.save(state_of(self.scenario.shape, what.code), what.step)

    async def _cancel(self, saver: Saver, what: Act) -> None:
        """Give a save up when all of it is written."""
        pending = saver._start(saver._flatten(state_of(self.scenario.shape, what.code)), what.step)
        try:
            await pending.written()
            pending.cancel()
        finally:
            await pending

    async def _hold(self, saver: Saver, what: Act) -> None:
        """Save as a session does, which has its own moment to delete what is older."""
        pending = saver._start(saver._flatten(state_of(self.scenario.shape, what.code)), what.step)
        pending.allow_commit()
        try:
            await pending
        finally:
            pending.release()

    async def _prune(self, saver: Saver, what: Act) -> None:
        await saver.prune()

    async def _restore(self, saver: Saver, what: Act) -> str:
        restored = await saver.restore(None if what.step < 0 else what.step)
        return f"{restored.step}={read_code(self.scenario.shape, restored.state)}"

    async def _list(self, saver: Saver, what: Act) -> str:
        """All that is listed, with the code of each, every byte of it read."""
        found = []
        for checkpoint in await saver.checkpoints():
            restored = await saver.restore(checkpoint.step)
            assert (await saver._catalog.report_or_reason(checkpoint.step))[1] is None
            found.append(f"{checkpoint.step}={read_code(self.scenario.shape, restored.state)}")
        there = await saver._store.steps()
        assert len(there) == len(found), f"of {there} only {found} are whole"
        return "+".join(found)

    async def _report(self, saver: Saver, what: Act) -> None:
        await saver._add_report(what.step, metrics={"loss": float(what.code)})

    async def _pin(self, saver: Saver, what: Act) -> None:
        await saver.pin(what.step)

    async def _unpin(self, saver: Saver, what: Act) -> None:
        await saver.unpin(what.step)

    async def _delete(self, saver: Saver, what: Act) -> None:
        await saver.delete(what.step)

    async def _abandon(self, saver: Saver, what: Act) -> None:
        await saver._abandon_above(what.step)

    async def _open(self, saver: Saver, what: Act) -> None:
        await saver.open()

    async def _close(self, saver: Saver, what: Act) -> None:
        self.saver = None
        await saver.aclose()


async def perform(scenario: Scenario, acts: tuple[Act, ...], base: Path) -> None:
    """Carry out acts in the directory ``base``, and mark what each of them came to.

    The mark is ``kind/step/code/verdict/found``. The verdict is ``ok``, an outcome of ``SaveError``, the name
    of another error of our tree, or ``ALIEN-`` and the name of one that is not of our tree; an act after an
    error is carried out all the same.
    """
    actor = Actor(scenario, base)
    for what in acts:
        if what.kind in {CALM, HOT}:
            mark(what.kind)
            continue
        found: object = None
        mark("begin", what.kind, what.step, what.code)
        try:
            found = await actor.perform(what)
        except CheckpointError as error:
            verdict = getattr(error, "outcome", type(error).__name__)
        except Exception as error:
            verdict = f"ALIEN-{error!r}".replace("/", "|")
        else:
            verdict = "ok"
        mark(what.kind, what.step, what.code, verdict, "" if found is None else found)


def prepare(scenario: Scenario, base: Path) -> None:
    """Bring about what the script finds when it starts."""
    if scenario.before:
        asyncio.run(_before(scenario, base))
    root = base / scenario.below
    for name in scenario.left:
        (root / name).mkdir()
        (root / name / "model-00001-of-00001.safetensors").write_bytes(b"left")
    if scenario.left:
        (root / ".pins").mkdir(exist_ok=True)
        (root / ".pins" / "lease-step-00000002-00000000000000dd").touch()


async def _before(scenario: Scenario, base: Path) -> None:
    actor = Actor(scenario, base)
    for what in scenario.before:
        await actor.perform(what._replace(code=what.code + 50))
    await actor.perform(Act("close"))


@contextlib.contextmanager
def file_system_of(scenario: Scenario) -> Iterator[None]:
    """Make this process believe that names cannot be exchanged here, if the script says so."""
    real = posix.exchange
    if not scenario.exchanges:
        posix.exchange = lambda *_: False
    try:
        yield
    finally:
        posix.exchange = real
