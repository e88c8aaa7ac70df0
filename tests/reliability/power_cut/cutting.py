"""Cuts the power again and again under a saver, in a bare process; what :func:`nursery.ask` calls."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from tests.reliability.lives import KEEP, LONGEST_SECS, Places, begin, killed, said
from tests.reliability.power_cut.device import Device
from tests.reliability.tracing.nursery import desk, say

__all__ = ["main"]


def main(text: str) -> None:
    """Cut as often as the question says; answer with what was counted, or die with what went wrong."""
    question: dict[str, Any] = json.loads(text)
    with desk(question["place"]) as place:
        base = place._base / "device"
        base.mkdir()
        with Device(question["kind"], base) as device:
            say(
                _cut(device, range(question["first"], question["first"] + question["cuts"]), question["seed"])
            )


def _cut(device: Device, numbers: range, seed: int) -> dict[str, Any]:
    acknowledged, states, places = 0, set(), Places(device.root)
    for number in numbers:
        rng = random.Random(f"{seed} {number}")
        keep = rng.choice(KEEP)
        try:
            directory, promises = places.of(keep, number)
            child, listening = begin(directory, keep, promises, rng.randrange(2**32))
            try:
                time.sleep(rng.random() * LONGEST_SECS)
                acknowledged += promises.hear(said(listening))
                device.cut()
            finally:
                # A cut takes milliseconds, and a call under way meanwhile may get the answer that it would
                # have got without: XFS lets go of the log and then finds nothing left for an fsync to do.
                # Where the power fails nobody is left to hear that answer, so it is no promise.
                killed(child, listening, promises, binding=False)
            device.restart()
            states.add(places.judge(keep))
        except BaseException as error:
            error.add_note(f"cut {number} of seed {seed}, keep {keep}")
            raise
    return {"acknowledged": acknowledged, "distinct": len(states)}
