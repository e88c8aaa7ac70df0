"""Every store keeps every promise, under every loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from async_ckpt.testing.stores import check_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from async_ckpt.storage.store import Store


KINDS = ["local", "memory", "memory, many places", "memory, no hops", "memory, small pieces"]


def makers(tmp_path: Path) -> dict[str, Callable[[], Store]]:
    place = MemoryPlace()
    return {
        "local": lambda: LocalStore(tmp_path / "new" / "runs"),
        "memory": lambda: MemoryStore(place),
        "memory, many places": MemoryStore,
        "memory, no hops": lambda: MemoryStore(place, hops=False),
        "memory, small pieces": lambda: MemoryStore(place, chunk=4096 * 64),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loop", ["asyncio", "debug", "uvloop"])
def test_a_store_keeps_its_promises(kind: str, loop: str, tmp_path: Path) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(debug=loop == "debug", loop_factory=factory) as runner:
        runner.run(check_store(makers(tmp_path)[kind]))
