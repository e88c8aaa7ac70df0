"""Tensors on devices: fetched before the rest is copied; without a GPU, by the plain way."""

from __future__ import annotations

from typing import Any

import pytest

from async_ckpt.saver import Saver
from async_ckpt.state import cuda
from async_ckpt.storage.memory import MemoryStore

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.asyncio, pytest.mark.leaks("torch keeps threads of its own")]


def state(value: float, device: str = "cpu") -> dict[str, Any]:
    made = {
        "w": torch.full((300, 400), value, device=device),
        "t": torch.arange(12.0, device=device).view(3, 4).T,
    }
    return {"model": {**made, "host": torch.full((5,), value)}, "step": int(value)}


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one["model"][name].cpu(), other["model"][name].cpu()) for name in other["model"])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sends matrices the way of device tensors; gives how many went there, save by save."""
    sent: list[int] = []
    places = cuda.places

    def chosen(layout: Any, placing: Any, values: Any) -> Any:
        found = places(layout, placing, values, lambda value: value.ndim > 1)
        sent.append(len(found))
        return found

    monkeypatch.setattr(cuda, "in_use", lambda: True)
    monkeypatch.setattr(cuda, "pin", lambda _memory, _device: None)
    monkeypatch.setattr(cuda, "places", chosen)
    return sent


@pytest.mark.parametrize("staging_bytes", [None, 2**20])
async def test_what_lies_on_a_device_is_saved_with_the_rest(
    memory: MemoryStore, elsewhere: list[int], staging_bytes: int | None
) -> None:
    async with Saver(memory, staging_bytes=staging_bytes, validate_staging=True) as saver:
        for step in (1, 2):
            pending = saver._start(saver._flatten(state(float(step))), step)
            await pending.staged()
            assert same(pending.view(), state(float(step)))
            pending.allow_commit()
            await pending
            pending.release()
        for step in (1, 2):
            assert same((await saver.restore(step)).state, state(float(step)))
    assert elsewhere == [2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU HERE: saving from CUDA is not tested")
@pytest.mark.parametrize("staging_bytes", [None, 2**20])
async def test_cuda_tensors_are_saved_as_of_the_call(memory: MemoryStore, staging_bytes: int | None) -> None:
    async with Saver(memory, staging_bytes=staging_bytes) as saver:
        live = state(0.0, "cuda")
        for step in (1, 2, 3):
            live["model"]["w"] += 1.0
            pending = saver.start_save(live, step)
            await pending.staged()
            await pending
        for step in (1, 2, 3):
            restored = (await saver.restore(step)).state["model"]["w"]
            assert restored.min() == restored.max() == step
