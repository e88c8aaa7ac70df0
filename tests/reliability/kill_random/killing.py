"""Kills a saver again and again at random moments, in a bare process; what :func:`nursery.ask` calls."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from tests.reliability.lives import KEEP, LONGEST_SECS, Places, begin, killed
from tests.reliability.tracing.nursery import desk, say

__all__ = ["main"]


def main(text: str) -> None:
    """Kill as often as the question says; answer with what was counted, or die with what went wrong."""
    question: dict[str, Any] = json.loads(text)
    seed, numbers = question["seed"], range(question["first"], question["first"] + question["kills"])
    acknowledged, states = 0, set()
    with desk(question["place"]) as place:
        places = Places(place._base)
        for number in numbers:
            rng = random.Random(f"{seed} {number}")
            keep = rng.choice(KEEP)
            try:
                directory, promises = places.of(keep, number)
                child, listening = begin(directory, keep, promises, rng.randrange(2**32))
                try:
                    time.sleep(rng.random() * LONGEST_SECS)
                finally:
                    acknowledged += killed(child, listening, promises)
                states.add(places.judge(keep))
            except BaseException as error:
                error.add_note(f"kill {number} of seed {seed}, keep {keep}")
                raise
    say({"acknowledged": acknowledged, "distinct": len(states)})
