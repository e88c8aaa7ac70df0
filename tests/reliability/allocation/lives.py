"""What is done while memory is short: one part of a session's life, and what may have come of it.

Everything runs on a simulated loop, whose threads are calls: the n-th allocation is the same one each time.
"""

from __future__ import annotations

import gc
import shutil
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession, Saver, events
from async_ckpt.storage import lock
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from async_ckpt.testing import SimError, SimLeak, run_sim
from tests.reliability.allocation.losses import listening, of_the_machinery, shortage, shortages

__all__ = ["PARTS", "STORES", "Finding", "live", "look_after"]

PARTS = ("save", "vote", "prune", "resume", "close")
STORES = ("memory", "local")
CLOTHES = (
    "MemoryError",
    "can't allocate",
    "error return without exception set",
    "returned NULL without setting an exception",
    "Attempted to exit a cancel scope that isn't the current tasks's current cancel scope",
)
"""What extensions, parts of the interpreter and, the last one, anyio make of a MemoryError."""
BEFORE = (1, 2, 3)
"""The checkpoints that are there before."""
OUTCOMES = (events.SaveCommitted, events.SaveFailed, events.SaveUnknown)


def state_of(code: int) -> dict[str, Any]:
    """Give the state that is saved under a code."""
    return {"model": {"w": np.full(4, float(code))}, "code": [code]}


class Starved:
    """A block within which chosen allocations fail; see ``_testcapi.set_nomemory``.

    Args:
        first: The number of the first that fails, counted from 1; 0 for none.
        last: The number of the last, or 0 for all that come after.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.stop = first, last + 1 if last else 0

    def __enter__(self) -> None:
        import _testcapi  # type: ignore[import-not-found,unused-ignore]

        gc.disable()  # when it comes depends on what was before
        if self.first:
            _testcapi.set_nomemory(self.first, self.stop)

    def __exit__(self, *_: object) -> None:
        _remove()
        gc.enable()


def _remove() -> None:
    import _testcapi

    _testcapi.remove_mem_hooks()


@dataclass
class Finding:
    """What came of one life.

    Attributes:
        kind: ``"unharmed"``, ``"error"`` when one that tells of the memory was raised, ``"lost"`` when
            the loop itself lost a wake-up.
        wrong: What must not be.
        where: What lacked memory when the loop lost a wake-up, or told nobody but its log.
    """

    kind: str
    wrong: list[str] = field(default_factory=list)
    where: str = ""
    raised: str = ""


class _Listener(CheckpointSaverListener):
    """Counts without asking for memory."""

    def __init__(self, votes: bool) -> None:
        self.votes = votes
        self.begun, self.ended, self.after = bytearray(1), bytearray(1), bytearray(1)

    async def begin(self) -> None:
        self.begun[0] += 1

    async def after_save(self, session: object, step: int) -> bool:
        self.after[0] += 1
        return self.votes

    async def end(self, session: object, step: int) -> None:
        self.ended[0] += 1


class Life:
    """One life of a session over a directory that holds three checkpoints."""

    def __init__(self, part: str, store: str, base: Path) -> None:
        self.part = part
        self.place = MemoryPlace()
        self.root = base / "runs"
        self.local = store == "local"
        self.listeners = [_Listener(votes=False), _Listener(votes=part == "vote")]
        self.outcomes: list[events.Event] = []
        self.uncalled = False  # it was the very call of the package that lacked the memory
        self.wrong: list[str] = []

    def saver(self, **options: Any) -> Saver:
        """Another saver on the same directory."""
        return Saver(self.root if self.local else MemoryStore(self.place), **options)

    async def prepare(self) -> None:
        """Leave the checkpoints of an earlier life."""
        async with self.saver(max_to_keep=None) as saver:
            for step in BEFORE:
                await saver.save(state_of(step), step)

    async def run(self, starved: Starved) -> None:
        """Live; raises what leaves the session."""
        keep = 1 if self.part == "prune" else None
        state = state_of(0)
        async with self.saver(max_to_keep=keep) as saver:
            hook = CheckpointSaverHook(
                saver,
                state,
                save_steps=1000 if self.part == "close" else 1,
                listeners=self.listeners,
                initial_save="never",
            )
            session = MonitoredTrainingSession(hooks=[hook], grace_secs=1e6, event_log=self.local)
            session.subscribe(self.outcomes.append, kinds=OUTCOMES)
            if self.part == "resume":
                with starved:
                    await session.__aenter__()
                if session.global_step != BEFORE[-1] or state["code"] != [BEFORE[-1]]:
                    self.wrong.append(f"resumed at {session.global_step} with {state}")
            else:
                await session.__aenter__()
            try:
                await self._within(session, saver, state, starved)
            except BaseException as error:
                await session.__aexit__(type(error), error, error.__traceback__)
                raise
            if self.part == "close":
                # The last step is saved by the way out.
                with starved:
                    await session.__aexit__(None, None, None)
            else:
                await session.__aexit__(None, None, None)

    async def _within(
        self, session: MonitoredTrainingSession, saver: Saver, state: dict[str, Any], starved: Starved
    ) -> None:
        if self.part in {"save", "vote"}:
            state["model"]["w"][:] = state["code"][0] = 4
            with starved:
                await session.advance()
                await session.drain()
        elif self.part == "close":
            state["model"]["w"][:] = state["code"][0] = 4
            await session.advance()
        elif self.part == "prune":
            with starved:
                await saver.prune()

    # -- and afterwards ------------------------------------------------------------------------------

    async def look(self) -> None:
        """What must hold whatever happened: the older ones are there, whole, and a next save works."""
        told = [event for event in self.outcomes if isinstance(event, OUTCOMES)]
        committed = {event.step for event in told if isinstance(event, events.SaveCommitted)}
        # One attempt at a step may be unknown, and only the next one have failed.
        failed = {event.step for event in told} - {
            event.step for event in told if not isinstance(event, events.SaveFailed)
        }
        async with self.saver(max_to_keep=None) as saver:
            found = await saver._store.steps()
            for step in found:
                restored = await saver.restore(step)
                if restored.state["code"] != [min(step, 4)] and step <= 4:
                    self.wrong.append(f"step {step} holds {restored.state}")
            # One that is restored from stays, and so does the newest.
            sure = set(BEFORE[-1:] if self.part == "prune" else BEFORE) | committed
            if not sure <= set(found):
                self.wrong.append(f"{sorted(sure)} are to be there, and {found} are")
            if failed & set(found):
                self.wrong.append(f"{sorted(failed)} failed, and {found} are there")
            if not set(found) <= {*BEFORE, 4}:
                self.wrong.append(f"{found} are there")
            await saver.save(state_of(9), 9)
            await saver.verify(9)

    def kill(self) -> None:
        """End what waits for ever: whoever waits is killed one day, and that ends the lock."""
        self.place.writer = None
        for held in list(lock._OURS):
            held.close()

    def judge_listeners(self) -> None:
        """One ``end`` for each that has begun."""
        for number, listener in enumerate(self.listeners):
            if listener.ended[0] != listener.begun[0]:
                self.wrong.append(f"listener {number}: {listener.begun[0]} begin, {listener.ended[0]} end")


def tells_of_memory(error: BaseException | None, seen: set[int] | None = None) -> bool:
    """Whether an error comes of a lack of memory, as its causes and notes say."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return False
    seen.add(id(error))
    told = "".join([str(error), *getattr(error, "__notes__", [])])
    if isinstance(error, MemoryError) or any(words in told for words in CLOTHES):
        return True
    inner = getattr(error, "exceptions", ()) or ()
    failures = [failure.exception for failure in getattr(error, "errors", ())]
    return any(tells_of_memory(one, seen) for one in (error.__cause__, error.__context__, *inner, *failures))


def live(part: str, store: str, base: Path, first: int, last: int) -> Finding:
    """Live once with allocations ``first`` to ``last`` of the part failing; see :class:`Starved`."""
    life = Life(part, store, base)
    run_sim(life.prepare)
    finding = Finding("unharmed", life.wrong)
    before = shortages([])
    with listening() as heard:
        try:
            run_sim(lambda: life.run(Starved(first, last)))
        except BaseException as error:
            _remove()
            _find(finding, life, error, heard, before)
    if finding.kind == "lost":
        life.kill()
    elif not life.uncalled:
        life.judge_listeners()
    try:
        run_sim(life.look)
    except BaseException as error:
        life.wrong.append(f"afterwards ({finding.kind}): " + _told(error))
    if life.local:
        shutil.rmtree(life.root)
    return finding


def look_after(part: str, base: Path) -> list[str]:
    """Say what must not be in the directory of a process that died with memory short."""
    life = Life(part, "local", base)
    run_sim(life.look)
    return life.wrong


def _find(
    finding: Finding, life: Life, error: BaseException, heard: list[BaseException], before: list[MemoryError]
) -> None:
    raised: BaseException | None = error
    if isinstance(error, SimError):
        raised = error.__cause__
        finding.where = next((shortage(one) for one in heard), "")
        # A callback that nobody waits for may be lost, and all comes to its end.
        if not isinstance(error, SimLeak) or _left_behind(error):
            finding.kind = "lost"
            found = shortages(heard, before)
            lost = [one for one in found if of_the_machinery(one)]
            if lost:
                finding.where = shortage(lost[0])
            else:
                life.wrong.append(f"waits for ever: {error}; {[shortage(one) for one in found]}")
            return
    if raised is None:
        return
    finding.kind = "error"
    finding.raised = _told(raised)
    frames = traceback.extract_tb(raised.__traceback__)
    life.uncalled = frames[-1].filename == __file__
    if not tells_of_memory(raised):
        life.wrong.append("not about memory: " + _told(raised))


def _left_behind(leak: SimLeak) -> bool:
    return any(line.startswith("  ") for line in str(leak).splitlines())


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-2500:]
