"""What is saved comes back: every kind of leaf, in place or fresh, whole or in part."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import (
    NoCheckpointError,
    ProtocolError,
    RestoreError,
    StructureMismatchError,
    UnsupportedLeafError,
)
from async_ckpt.saver import Saver
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.testing import FakeClock

from .conftest import Faults, assert_same, rich_state

pytestmark = pytest.mark.asyncio


async def test_a_rich_state_comes_back_bit_for_bit(make_store: Callable[[], Any]) -> None:
    state = rich_state(1)
    async with Saver(make_store()) as saver:
        checkpoint = await saver.save(state, 7)
        restored = await saver.restore()
    assert restored.step == checkpoint.step == 7
    assert restored.skipped == ()
    assert_same(state, restored.state)


async def test_another_saver_reads_what_the_first_one_wrote(make_store: Callable[[], Any]) -> None:
    state = rich_state(2)
    async with Saver(make_store()) as saver:
        await saver.save(state, 1)
    async with Saver(make_store()) as saver:
        assert_same(state, (await saver.restore()).state)


async def test_reading_takes_no_lock(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as writer, Saver(make_store()) as reader:
        await writer.save({"a": np.ones(3)}, 1)
        assert [c.step for c in await reader.checkpoints()] == [1]
        assert (await reader.restore()).step == 1
        await reader.verify(1)
        await reader.pin(1)
        await reader.unpin(1)


async def test_restoring_into_a_state_fills_the_same_arrays(make_store: Callable[[], Any]) -> None:
    saved, live = rich_state(3), rich_state(4)
    arrays = {name: live["model"][name] for name in live["model"]}
    moments, generator = live["optimizer"]["m"], live["rng"]
    async with Saver(make_store()) as saver:
        await saver.save(saved, 1)
        restored = await saver.restore(into=live)
    assert restored.state is live
    assert live["optimizer"]["m"] is moments
    assert live["rng"] is generator
    for name, array in arrays.items():
        assert live["model"][name] is array
    assert_same(saved, live)


async def test_only_may_choose_neighbours_of_what_it_leaves_out(memory: MemoryStore) -> None:
    state = {"model": {name: np.full(4, i) for i, name in enumerate("abcde")}}
    async with Saver(memory) as saver:
        await saver.save(state, 1)
        restored = await saver.restore(only=["model/a", "model/c", "model/d"])
    assert_same({name: state["model"][name] for name in "acd"}, restored.state["model"])


async def test_only_into_a_state_leaves_the_rest_alone(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        await saver.save({"model": {"w": np.ones(3)}, "optimizer": {"m": np.ones(3)}}, 1)
        live = {"model": {"w": np.zeros(3)}, "optimizer": {"m": np.zeros(3)}}
        await saver.restore(into=live, only="model/**")
    assert live["model"]["w"].sum() == 3
    assert live["optimizer"]["m"].sum() == 0


async def test_a_mismatch_names_everything_and_changes_nothing(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        await saver.save({"a": np.ones(3), "gone": np.ones(2), "b": np.ones((2, 2))}, 1)
        live = {"a": np.zeros(3), "new": np.zeros(1), "b": np.zeros((2, 3))}
        with pytest.raises(StructureMismatchError, match="step-00000001") as caught:
            await saver.restore(into=live)
        assert caught.value.step == 1
        assert caught.value.missing == ("new",)
        assert caught.value.unexpected == ("gone",)
        assert [line.split(":")[0] for line in caught.value.different] == ["b"]
        assert live["a"].sum() == 0
        live = {"a": np.zeros(3), "new": np.zeros(1)}
        await saver.restore(into=live, strict=False)
        assert live["a"].sum() == 3


async def test_a_state_that_refuses_is_named(memory: MemoryStore) -> None:
    class Stubborn:
        def state_dict(self) -> dict[str, Any]:
            return {"x": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise KeyError("x")

    async with Saver(memory) as saver:
        await saver.save({"s": Stubborn()}, 1)
        with pytest.raises(RestoreError, match="load_state_dict") as caught:
            await saver.restore(into={"s": Stubborn()})
    assert caught.value.step == 1
    assert caught.value.path == f"{memory.location}/step-00000001"
    assert isinstance(caught.value.__cause__, KeyError)


async def test_the_checkpoint_says_what_it_is(make_store: Callable[[], Any]) -> None:
    clock = FakeClock()
    store = make_store()
    async with Saver(store, clock=clock) as saver:
        metrics: dict[str, Any] = {"loss": float("nan"), "acc": np.float32(0.5), "n": 3, "inf": -math.inf}
        metadata = {"git": "abc", "sizes": [1, 2], "nested": {"deep": None}}
        made = await saver.save({"a": np.ones(4)}, 12, metrics=metrics, metadata=metadata)
        (listed,) = await saver.checkpoints()
        newest = await saver.latest()
    assert math.isnan(made.metrics["loss"])
    assert math.isnan(listed.metrics["loss"])
    assert listed.metrics["acc"] == 0.5
    assert listed.metrics["n"] == 3.0
    assert listed.metrics["inf"] == -math.inf
    assert repr(listed) == repr(made) == repr(newest)
    assert listed.metadata == metadata
    assert listed.created == clock.wall()
    assert listed.path == f"{store.location}/step-00000012"
    assert listed.bytes == 4096 + 32


async def test_a_state_without_arrays_is_a_checkpoint_too(make_store: Callable[[], Any]) -> None:
    async with Saver(make_store()) as saver:
        checkpoint = await saver.save({"epoch": 3}, 0)
        assert checkpoint.bytes == 0
        assert (await saver.restore()).state == {"epoch": 3}
        assert (await saver.verify(0)).files == ()


async def test_arrays_without_elements_come_back(make_store: Callable[[], Any]) -> None:
    state = {"model": {"a": np.empty((0, 2)), "b": np.empty(0, np.int8)}}
    async with Saver(make_store()) as saver:
        await saver.save(state, 1)
        await saver.verify(1)
        assert_same(state, (await saver.restore()).state)


async def test_shards_are_cut_at_the_size_asked_for(tmp_path: Path) -> None:
    state = {"model": {name: np.full(100, i) for i, name in enumerate("abcd")}}
    async with Saver(tmp_path, max_shard_bytes=1700) as saver:
        await saver.save(state, 1)
        assert len((await saver.verify(1)).files) == 2
        assert_same(state, (await saver.restore()).state)


async def test_the_files_are_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    async with Saver(tmp_path) as saver:
        checkpoint = await saver.save({"model": {"w": np.arange(6.0).reshape(2, 3)}, "k": np.ones(2)}, 1)
    model = load_file(Path(checkpoint.path) / "model-00001-of-00001.safetensors")
    assert_same({"w": np.arange(6.0).reshape(2, 3)}, model)


async def test_an_empty_place_holds_nothing(tmp_path: Path) -> None:
    async with Saver(tmp_path / "not" / "there") as saver:
        assert await saver.checkpoints() == []
        assert await saver.latest() is None
        with pytest.raises(NoCheckpointError, match="no checkpoint"):
            await saver.restore()
        with pytest.raises(NoCheckpointError):
            await saver.restore(3)
        with pytest.raises(NoCheckpointError):
            await saver.verify(3)
    assert not (tmp_path / "not").exists()


async def test_an_unsupported_leaf_raises_before_anything_is_on_disk(tmp_path: Path) -> None:
    async with Saver(tmp_path / "run") as saver:
        with pytest.raises(UnsupportedLeafError) as caught:
            saver.start_save({"model": {"f": print}}, 1)
        assert caught.value.path == "model/f"
        with pytest.raises(UnsupportedLeafError) as caught:
            await saver.save({"a": np.ones(1)}, 1, metadata={"f": object()})
        assert caught.value.path == "metadata/f"
        with pytest.raises(UnsupportedLeafError) as caught:
            saver._start(saver._flatten({}), 1, listeners={"Early-0": {"best": object()}})
        assert caught.value.path == "listeners/Early-0/best"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "error"),
    [(-1, ValueError), (10**19, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError)],
)
async def test_a_step_is_a_small_enough_integer(
    memory: MemoryStore, step: Any, error: type[Exception]
) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(error, match="step"):
            saver.start_save({}, step)
        with pytest.raises(error, match="step"):
            await saver.restore(step)


async def test_numpy_integers_are_steps(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        checkpoint = await saver.save({}, np.int64(5))  # type: ignore[arg-type]
    assert type(checkpoint.step) is int


@pytest.mark.parametrize("metrics", [{"a": "0.5"}, {"a": b"1"}, {"a": None}, {1: 0.5}, [("a", 1)], {"a": 1j}])
async def test_metrics_are_numbers_by_name(memory: MemoryStore, faults: Faults, metrics: Any) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(TypeError, match="metric"):
            saver.start_save({}, 1, metrics=metrics)
    assert not [op for op, _, _ in faults.seen if op == "begin"]


async def test_metadata_is_a_table(memory: MemoryStore) -> None:
    async with Saver(memory) as saver:
        with pytest.raises(TypeError, match="metadata"):
            saver.start_save({}, 1, metadata=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"staging": "later"},
        {"max_to_keep": -1},
        {"max_shard_bytes": 0},
        {"keep": [], "max_to_keep": 5},
        {"keep_checkpoint_every_n_hours": 0},
    ],
)
async def test_wrong_parameters_are_refused_at_once(memory: MemoryStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Saver(memory, **wrong)


async def test_a_closed_saver_says_so(memory: MemoryStore) -> None:
    saver = Saver(memory)
    async with saver:
        await saver.save({}, 1)
    calls: list[Callable[[], Any]] = [
        lambda: saver.start_save({}, 2),
        lambda: saver._start(saver._flatten({}), 2),
    ]
    for call in calls:
        with pytest.raises(ProtocolError, match="closed"):
            call()
    for method in (
        saver.save({}, 2),
        saver.restore(),
        saver.checkpoints(),
        saver.latest(),
        saver.verify(1),
        saver.delete(1),
        saver.pin(1),
        saver.unpin(1),
        saver.prune(),
        saver.open(),
        saver._add_report(1),
        saver._abandon_above(1),
        saver.__aenter__(),
    ):
        with pytest.raises(ProtocolError, match="closed"):
            await method
    await saver.drain()
    await saver.aclose()
    assert memory.location in repr(saver)
    assert saver.location == memory.location
