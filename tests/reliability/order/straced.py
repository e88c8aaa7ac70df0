"""The child whose system calls are written down: all scenarios, one after the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.reliability.order.paths import PATHS
from tests.reliability.tracing.scenarios import file_system_of, mark, perform, prepare

__all__ = ["main"]


def main(what: str, base: str, *names: str) -> None:
    for name in names:
        scenario, place = PATHS[name], Path(base) / name
        if what == "prepare":
            place.mkdir()
            prepare(scenario, place)
            continue
        mark("scenario", name)
        with file_system_of(scenario):
            asyncio.run(perform(scenario, scenario.acts, place))
        mark("scenario", "over")
