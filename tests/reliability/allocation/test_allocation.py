"""Tier *allocation*: any allocation may fail, in saves, votes, prunes, resumes and exits.

What comes of it is success or an error that tells of the memory; the older checkpoints are there, a save that
was told to have failed is not, every listener that began gets one ``end``, and the next save works.

An allocation that fails within the event loop itself loses a wake-up, and then somebody waits for ever. Such
runs are counted apart, and judged by what is in the store. So are those that end the interpreter, for there
are extensions that do not bear the failure.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections.abc import Callable

import pytest

from tests.reliability.allocation.lives import PARTS, STORES
from tests.reliability.tier import SEED, counting, pick
from tests.reliability.tracing.nursery import ask

STRIDE = pick(800, 20, 1)
"""Every so many is tried, from a place that the seed picks."""
EVERY = tuple(itertools.product(PARTS, STORES))
LIVES = pick((("save", "local"), ("resume", "memory")), EVERY, EVERY)
BURSTS = pick((1,), (1,), (1, 30))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("burst", BURSTS)
@pytest.mark.parametrize(("part", "store"), LIVES)
def test_an_allocation_fails(
    record_property: Callable[[str, object], None], part: str, store: str, burst: int
) -> None:
    with counting(record_property, "allocation", f"failed allocations in {part}, {store} store") as tally:
        if importlib.util.find_spec("_testcapi") is None:
            tally.skip("this Python has no _testcapi, which makes allocations fail")
        first = random.Random(f"{SEED} {part} {store}").randrange(STRIDE)
        question = {"part": part, "store": store, "first": first, "stride": STRIDE, "burst": burst}
        answer = ask("tests.reliability.allocation.starving", question, timeout=7200)
        tally.cases = sum(answer["kinds"].values())
        tally.facts = {"allocations": answer["total"], "stride": STRIDE, "burst": burst, **answer["kinds"]}
        tally.facts["wake-ups lost in"] = answer["where"]
        assert not answer["failures"], "\n".join(answer["failures"])
