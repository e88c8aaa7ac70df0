"""Where memory lacks for what the saver does itself, nobody waits for ever and what is durable is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from async_ckpt.saver import Saver, line
from async_ckpt.saver import saver as saver_module
from async_ckpt.saver.gate import Gate
from async_ckpt.saver.pending import PendingSave
from async_ckpt.system.threads import spawn

pytestmark = pytest.mark.asyncio


def state() -> dict[str, Any]:
    return {"w": np.arange(4.0)}


def lacks(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call for which memory lacks the first time."""
    left = [True]

    def lacking(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()
            for arg in args:
                if asyncio.iscoroutine(arg):
                    arg.close()
            raise MemoryError
        return call(*args, **kwargs)

    return lacking


async def test_a_line_that_could_not_be_started_is_started_by_the_next_save(
    make_store: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(make_store()) as saver:
        monkeypatch.setattr(line, "spawn", lacks(spawn))
        with pytest.raises(MemoryError):
            await saver.save(state(), 1)
        async with saver.mutating():
            pass
        assert (await saver.save(state(), 2)).step == 2
        assert [found.step for found in await saver.checkpoints()] == [2]


async def test_a_durable_save_is_told_as_that_whatever_lacks_memory_behind_the_rename(
    make_store: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with Saver(make_store()) as saver:
        monkeypatch.setattr(saver._line, "_settle", lacks(saver._line._settle))
        assert (await saver.save(state(), 1)).step == 1
        assert (await saver.save(state(), 2)).step == 2


async def test_whoever_waits_is_told_though_the_place_at_the_gate_could_not_be_left() -> None:
    pending = PendingSave(1, held=False, left=lacks(lambda: None))
    with pytest.raises(MemoryError):
        pending._fail(OSError("full"))
    assert pending.done()
    with pytest.raises(OSError, match="full"):
        await pending


async def test_a_copy_that_leaves_the_gate_lets_the_next_one_in_though_memory_lacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    copy, change = gate.take("copy"), gate.take("change")
    entering = asyncio.ensure_future(gate.entered(change))
    await asyncio.sleep(0)
    monkeypatch.setattr(gate, "_grant", lacks(gate._grant))
    gate.leave(copy)
    await entering


@pytest.mark.parametrize("lacking", ["spawn", "store"])
async def test_a_saver_left_without_memory_gives_the_lock_back(
    lacking: str, make_store: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Saver(make_store()) as saver:
        await saver.save(state(), 1)
        if lacking == "spawn":
            monkeypatch.setattr(saver_module, "spawn", lacks(spawn))
        else:
            monkeypatch.setattr(saver._store, "aclose", lacks(saver._store.aclose))
    async with Saver(make_store()) as other:
        await other.save(state(), 2)
