"""A save that is asked to be given up, at any time: what ``cancel()`` answers is what becomes of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import numpy as np

from async_ckpt import SaveError, Saver
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.testing import run_sim
from tests.reliability.tier import SEED, counting, pick

SCHEDULES = pick(4, 100, 1000)
MOMENTS = 60
SLOWEST = 0.002
"""Seconds that a thread takes at most; a save is a dozen or two of them, one after the other."""


def test_what_cancel_answers_is_what_becomes_of_the_save(
    record_property: Callable[[str, object], None],
) -> None:
    with counting(record_property, "cancel", "moments at which a save is given up") as tally:
        seen: Counter[str] = Counter()
        for seed in range(SEED, SEED + SCHEDULES):
            for moment in range(MOMENTS):
                answer, outcome, steps = run_sim(
                    lambda moment=moment: _given_up(moment * SLOWEST / 3),  # type: ignore[misc]
                    seed,
                    thread_secs=(0.0, SLOWEST),
                )
                again = (
                    f"seed {seed}, moment {moment}: cancel() said {answer}, the save {outcome}, {steps} there"
                )
                assert (outcome == "saved") == (2 in steps), again
                assert answer == (outcome == "cancelled"), again
                assert 1 in steps, again
                seen[f"{answer}, {outcome}"] += 1
                tally.cases += 1
        tally.facts = dict(seen)
        assert len(seen) == 2, f"all moments were alike: {seen}"


async def _given_up(after: float) -> tuple[bool, str, list[int]]:
    store = MemoryStore(hops=True)
    async with Saver(store) as saver:
        await saver.save({"w": np.zeros(4)}, 1)
        pending = saver.start_save({"w": np.ones(4)}, 2)
        await asyncio.sleep(after)
        answer = pending.cancel()
        try:
            await pending
        except SaveError as error:
            return answer, error.outcome, await store.steps()
        return answer, "saved", await store.steps()
