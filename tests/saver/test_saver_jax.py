"""Arrays of jax: kept by reference while they are written, unless training gives them away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from async_ckpt.saver import Saver
from async_ckpt.storage.memory import MemoryStore

from .conftest import Faults

jax = pytest.importorskip("jax")
pytestmark = [pytest.mark.asyncio, pytest.mark.leaks("jax keeps threads of its own")]

MIB = 2**20


def state(value: float) -> dict[str, Any]:
    return {"params": {"w": jax.numpy.full(2 * MIB, value), "b": jax.numpy.full(3, value)}}


async def test_a_state_of_immutable_arrays_takes_no_memory_of_its_size(memory: MemoryStore) -> None:
    live = {f"g{number}": {"w": jax.numpy.full(16 * MIB, float(number))} for number in range(4)}
    async with Saver(memory) as saver:
        pending = saver._start(saver._flatten(live), 1)
        await pending.staged()
        assert saver._engine.memory_bytes < 0.6 * sum(leaf["w"].nbytes for leaf in live.values())
        view = pending.view()
        assert view["g3"]["w"] is live["g3"]["w"]
        pending.allow_commit()
        await pending
        pending.release()
        restored = (await saver.restore()).state
        assert all(float(restored[f"g{number}"]["w"][-1]) == number for number in range(4))


async def test_small_arrays_beside_are_saved_with_the_rest(memory: MemoryStore) -> None:
    live = {**state(1.0), "params": {**state(1.0)["params"], "numpy": np.arange(5.0)}}
    async with Saver(memory) as saver:
        pending = saver._start(saver._flatten(live), 1)
        await pending.staged()
        live["params"]["numpy"][:] = 9.0
        assert pending.view()["params"]["numpy"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        pending.allow_commit()
        await pending
        pending.release()
        restored = (await saver.restore()).state["params"]
        assert restored["numpy"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert restored["b"].tolist() == [1.0] * 3


async def test_the_memory_beside_immutable_arrays_is_used_again(memory: MemoryStore) -> None:
    live = {"params": {**state(1.0)["params"], "numpy": np.arange(5.0)}}
    async with Saver(memory) as saver:
        await saver.save(live, 1)
        ((arena, _),) = saver._engine._memory._idle
        assert not arena.lent()
        await saver.save(live, 2)
        assert [again for again, _ in saver._engine._memory._idle] == [arena]


async def test_a_step_that_is_given_the_arrays_changes_no_checkpoint(
    memory: MemoryStore, faults: Faults, thread: Any
) -> None:
    step = jax.jit(lambda w: w + 1.0, donate_argnums=0)
    live = state(1.0)
    async with Saver(memory) as saver:
        for number in (1, 2, 3):
            came, go = faults.hold("begin")
            pending = saver.start_save(live, number)
            await pending.staged()
            await thread.call(came.wait)
            live = {"params": {name: step(array) for name, array in live["params"].items()}}
            go.set()
            await pending
        for number in (1, 2, 3):
            restored = (await saver.restore(number)).state["params"]
            assert np.unique(np.asarray(restored["w"])).tolist() == [float(number)]
        # By then it is known that they are given away, and they are copied.
        assert saver._writer._plan is not None
        assert saver._writer._plan.donated
