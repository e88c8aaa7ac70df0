"""Tier *model*: a directory and the sessions in it do what a model of some sixty lines says.

Hypothesis draws what is done: steps, saves, votes, pins, deletions, damage, crashes in the middle of a save,
and lives that begin on what is left. Threads are calls, so that an example can be repeated.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from async_ckpt import DamagedCheckpointError, ProtocolError, SessionStopped
from tests.determinism.checking import quiet
from tests.reliability.model.driver import Driver, state_of
from tests.reliability.model.model import Directory, Kept
from tests.reliability.tier import SEED, counting, pick

CHUNKS = pick(2, 10, 40)
EXAMPLES = pick(16, 2_000, 20_000)
STEPS = 50

TENSORS = ("model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors")
alive = precondition(lambda self: self.driver.session is not None)
running = precondition(lambda self: self.driver.session is not None and not self.model.life.stopped)
alone = precondition(lambda self: self.driver.session is None)
filled = precondition(lambda self: bool(self.model.kept))


class Training(RuleBasedStateMachine):
    """One directory, and what happens to it."""

    base: ClassVar[Path]
    counts: ClassVar[Counter[str]]

    @initialize(keep=st.sampled_from([1, 2, 3, None]), blocking=st.booleans())
    def begin(self, keep: int | None, blocking: bool) -> None:
        self.driver = Driver(Path(tempfile.mkdtemp(dir=self.base)), keep=keep, blocking=blocking)
        self.model = Directory(keep, blocking)
        self.code = 0
        self.counts["examples"] += 1

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            try:
                self.verify()
            finally:
                self.driver.close()
                shutil.rmtree(self.driver.base)

    def next_code(self) -> int:
        self.code += 1
        return self.code

    # -- lives ---------------------------------------------------------------------------------------

    @alone
    @rule()
    def enter(self) -> None:
        driver, model = self.driver, self.model
        passed_over = [step for step in sorted(model.kept, reverse=True) if not model.kept[step].restorable]
        if model.kept and model.newest is None:
            with pytest.raises(DamagedCheckpointError):
                driver.enter()
            assert driver.calls == {"begin": 1, "end": 1}
            self.counts["nothing valid"] += 1
            return
        driver.reports.clear()
        session = driver.enter()
        life, owed = model.enter()
        assert session.global_step == life.start, (session.global_step, model)
        assert driver.calls == {"begin": 1, "end": 0}
        restored = session.restored
        if not life.restored:
            assert restored is None
            self.same_state(0)
            self.counts["fresh"] += 1
            return
        newer = [step for step in passed_over if step > life.start]
        assert restored is not None
        assert [skipped.step for skipped in restored.skipped] == newer
        self.same_state(model.kept[life.start].code)
        assert driver.reports == [life.start] * owed
        if owed:
            model.report(life.start, votes=driver.votes)
        model.boundary(None, votes=False)
        self.counts["fallbacks" if newer else "resumed"] += 1
        self.counts["owed reports"] += owed

    def same_state(self, code: int) -> None:
        expected, state = state_of(code), self.driver.state
        assert state["code"] == expected["code"]
        assert state["model"]["w"].tolist() == expected["model"]["w"].tolist()
        assert state["optimizer"]["m"].tolist() == expected["optimizer"]["m"].tolist()

    @running
    @rule(saves=st.sampled_from([True, True, False]))
    def step(self, saves: bool) -> None:
        driver, code, life = self.driver, self.next_code(), self.model.life
        assert life is not None
        driver.reports.clear()
        driver.do(lambda: driver.step(code, saves=saves))
        life.step += 1
        self.model.boundary(code if saves else None, votes=driver.votes)
        assert driver.reports == [life.step] * saves

    @running
    @rule()
    def save(self) -> None:
        driver, life = self.driver, self.model.life
        session = driver.session
        assert session is not None
        assert life is not None
        driver.reports.clear()
        due = life.durable != life.step
        checkpoint = driver.do(session.save)
        assert getattr(checkpoint, "step", None) == life.step
        self.model.boundary(driver.state["code"][0] if due else None, votes=driver.votes)
        assert driver.reports == [life.step] * due

    @rule(votes=st.booleans())
    def opinion(self, votes: bool) -> None:
        self.driver.votes = votes

    @precondition(lambda self: self.driver.session is not None and self.model.life.stopped)
    @rule()
    def step_after_the_stop(self) -> None:
        with pytest.raises(SessionStopped):
            self.driver.do(lambda: self.driver.step(self.next_code(), saves=True))
        self.counts["stopped"] += 1

    @alive
    @rule()
    def close(self) -> None:
        driver, life, code = self.driver, self.model.life, self.driver.state["code"][0]
        assert life is not None
        driver.reports.clear()
        driver.leave()
        if due := life.durable != life.step:
            self.model.save(code, votes=driver.votes)
        self.model.life = None
        assert driver.reports == [life.step] * due
        assert driver.calls == {"begin": 1, "end": 1}
        self.counts["closed"] += 1
        self.nothing_left_over()

    def nothing_left_over(self) -> None:
        root = self.driver.root
        left = [path.name for path in root.rglob("*") if path.name.startswith((".tmp-step", ".trash-"))]
        leases = [path.name for path in root.glob(".pins/lease-*")]
        assert left + leases == []

    # -- crashes -------------------------------------------------------------------------------------

    @alive
    @rule()
    def crash(self) -> None:
        self.driver.crash()
        self.model.life = None
        self.counts["crashes"] += 1

    @running
    @rule(turns=st.integers(0, 45))
    def crash_in_a_save(self, turns: int) -> None:
        driver, before, after = self.driver, self.model, copy.deepcopy(self.model)
        code, life, voting = self.next_code(), after.life, driver.votes
        assert life is not None
        life.step += 1
        after.save(code, votes=voting)
        aside = len([*driver.root.glob(".abandoned-*")])
        step = driver.ask(lambda: driver.step(code, saves=True))
        driver.turn(turns)
        driver.crash()
        assert step.done()
        assert step.exception() is None
        if len([*driver.root.glob(".abandoned-*")]) > aside:
            before.set_aside()
        self.model = self.survivors(before, after, life.step)
        self.counts["crashes in a save"] += 1
        self.counts["of those, committed"] += life.step in self.model.kept

    def survivors(self, before: Directory, after: Directory, saved: int) -> Directory:
        """What may be there: all of before or all of after, and no gap without the new one."""
        found = {int(path.name[5:]) for path in self.driver.root.glob("step-*")}
        assert found <= before.kept.keys() | after.kept.keys()
        assert before.kept.keys() & after.kept.keys() <= found
        assert saved in found or before.kept.keys() <= found, "deleted before the new one was there"
        kept = {step: before.kept[step] for step in found & before.kept.keys()}
        if saved in found - before.kept.keys():
            there = after.kept[saved]
            reported = self.driver.file(saved, "report.json").exists()
            kept[saved] = there if reported else Kept(there.code)
        return Directory(before.keep, before.blocking, kept, before.pins & found)

    # -- what others do ------------------------------------------------------------------------------

    @filled
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.model.kept)))
        self.driver.look(lambda saver: saver.pin(step))
        self.model.pins.add(step)

    @precondition(lambda self: bool(self.model.pins))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.model.pins)))
        self.driver.look(lambda saver: saver.unpin(step))
        self.model.pins.discard(step)

    @alive
    @rule()
    def prune(self) -> None:
        saver = self.driver.saver
        assert saver is not None
        before = set(self.model.kept)
        gone = self.driver.do(saver.prune)
        self.model.prune()
        assert gone == sorted(before - self.model.kept.keys())

    @alone
    @precondition(lambda self: len(self.model.kept) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.model.kept)))
        self.driver.reopen_outside()
        outside = self.driver.outside

        async def delete() -> None:
            await outside.delete(step)

        try:
            if step in self.model.pins:
                with pytest.raises(ProtocolError):
                    self.driver.do(delete)
            else:
                self.driver.do(delete)
                del self.model.kept[step]
        finally:
            self.driver.reopen_outside()

    @filled
    @rule(
        newest=st.integers(1, 2),
        name=st.sampled_from(["manifest.json", "report.json", *TENSORS]),
        how=st.sampled_from(["flip", "cut", "gone"]),
        where=st.floats(0, 1, exclude_max=True),
        headers=st.booleans(),
    )
    def corrupt(self, newest: int, name: str, how: str, where: float, headers: bool) -> None:
        """Damage the newest ones, as a disk would: without a word."""
        for step in sorted(self.model.kept)[-newest:]:
            path, kept = self.driver.file(step, name), self.model.kept[step]
            if not path.exists() or not (data := bytearray(path.read_bytes())):
                continue
            # Headers are long, and reading goes by the manifest: half of the flips are to hit what is read.
            at = int(len(data) * where) if headers else max(0, len(data) - 1 - int(16 * where))
            header = 8 + int.from_bytes(data[:8], "little")
            if how == "gone":
                path.unlink()
            else:
                data[at] = (data[at] + 1) % 256  # never back to what it was
                path.write_bytes(data if how == "flip" else data[:at])
            if name == "report.json":
                self.model.kept[step] = replace(kept, reported=False, vote=None)
            elif how != "flip" or name not in TENSORS:
                self.model.kept[step] = kept.harmed("seen")
            else:
                self.model.kept[step] = kept.harmed("unread" if at < header else "met")
            self.counts["damaged"] += 1

    # -- what is there -------------------------------------------------------------------------------

    @invariant()
    def listing(self) -> None:
        if not hasattr(self, "driver"):
            return
        found = [checkpoint.step for checkpoint in self.driver.look(lambda saver: saver.checkpoints())]
        assert found == self.model.listed
        session, life = self.driver.session, self.model.life
        assert (session is None) == (life is None)
        if session is not None and life is not None:
            assert session.global_step == life.step
            assert session.should_stop() == life.stopped
        self.counts["steps"] += 1

    @filled
    @rule()
    def verify(self) -> None:
        """Every byte of everything."""
        for step, kept in self.model.kept.items():
            if kept.harm:
                with pytest.raises(DamagedCheckpointError):
                    self.driver.look(lambda saver, step=step: saver.verify(step))  # type: ignore[misc]
                continue
            restored = self.driver.look(lambda saver, step=step: saver.restore(step))  # type: ignore[misc]
            assert restored.state["code"] == [kept.code]
            assert restored.state["model"]["w"].tolist() == [kept.code] * 3
            votes: list[Any] = [vote["step"] for vote in restored.votes]
            assert votes == ([] if kept.vote is None or not kept.reported else [kept.vote])


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="async-ckpt-model-", dir=memory) as made:
        yield Path(made)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("index", range(CHUNKS))
def test_the_directory_is_as_the_model_says(
    record_property: Callable[[str, object], None], base: Path, index: int
) -> None:
    with counting(record_property, "model", f"runs of {STEPS} steps") as tally, quiet():

        class Chunk(Training):
            pass

        Chunk.base, Chunk.counts = base, Counter()
        try:
            run_state_machine_as_test(
                hypothesis.seed(SEED * 1000 + index)(Chunk),
                settings=settings(
                    max_examples=EXAMPLES // CHUNKS,
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    derandomize=False,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            tally.cases = Chunk.counts.pop("examples", 0)
            tally.facts = dict(sorted(Chunk.counts.items()))
