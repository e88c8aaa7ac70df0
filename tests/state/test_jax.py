"""jax arrays and keys, where jax is installed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from async_ckpt.errors import StructureMismatchError, UnsupportedLeafError
from async_ckpt.state.arena import Arena
from async_ckpt.state.into import check_restorable, plan_into
from async_ckpt.state.layout import plan
from async_ckpt.state.tree import flatten, unflatten
from tests.state.roundtrip import exact, stage, stored_arrays, there_and_back, through_json, view

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "float16",
        "float32",
        "complex64",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 4)], ids=str)
def test_an_array_of_any_dtype_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = jnp.ones(shape, dtype)
    back = there_and_back({"a": array})["a"]
    assert isinstance(back, jax.Array)
    assert exact(np.asarray(back)) == exact(np.asarray(array))


def test_64_bits_come_back_whether_jax_has_them_or_not() -> None:
    with jax.enable_x64(True):
        arrays = [jnp.arange(3.0, dtype="float64"), jnp.ones(2, "complex128"), jnp.arange(3, dtype="int64")]
        flat = flatten(arrays)
        assert [leaf.spec.kind for leaf in flat.leaves] == ["jax", "jax:c128", "jax"]
        back = there_and_back(arrays)
        assert all(isinstance(array, jax.Array) for array in back)
    assert [str(array.dtype) for array in back] == ["float64", "complex128", "int64"]
    narrow = unflatten(flat.structure, stored_arrays(flat))
    assert all(isinstance(array, np.ndarray) for array in narrow)
    assert [array.tolist() for array in narrow] == [[0, 1, 2], [1, 1], [0, 1, 2]]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_come_back_as_keys(impl: str) -> None:
    key = jax.random.split(jax.random.key(3, impl=impl), 4)
    back = there_and_back({"key": key, "old": jax.random.PRNGKey(1)})
    assert back["key"].dtype == key.dtype
    assert back["key"].shape == (4,)
    assert jax.random.uniform(back["key"][2]) == jax.random.uniform(key[2])
    assert back["old"].dtype == "uint32"


def restore(saved: Any, target: Any) -> Any:
    flat = flatten(saved)
    made = plan_into(target, through_json(flat.structure), flat.specs)
    arrays = stored_arrays(flat)
    for index in made.indices:
        made.memory(index)[:] = arrays[index].reshape(-1).view(np.uint8)
    made.apply()
    return made


def test_an_array_is_replaced_where_it_stands_and_lies() -> None:
    old = jnp.zeros(3)
    target: dict[Any, Any] = {"a": old, "k": [jax.random.key(0)], "n": np.zeros(2, ml_dtypes.bfloat16)}
    restore({"a": np.ones(3, "f4"), "k": [jax.random.key(7)], "n": jnp.ones(2, "bfloat16")}, target)
    assert isinstance(target["a"], jax.Array)
    assert target["a"].sharding == old.sharding
    assert target["a"].tolist() == [1, 1, 1]
    assert old.tolist() == [0, 0, 0]
    assert jax.random.uniform(target["k"][0]) == jax.random.uniform(jax.random.key(7))
    assert target["n"].tolist() == [1, 1]


def test_a_key_is_no_array_of_numbers() -> None:
    flat = flatten([jax.random.key(0)])
    with pytest.raises(StructureMismatchError, match=r"saved jax:key:threefry2x32, here numpy"):
        plan_into([np.zeros(2, "u4")], flat.structure, flat.specs)


def test_an_array_in_a_tuple_could_not_be_restored_in_place() -> None:
    check_restorable({"a": [jnp.zeros(1)]})
    with pytest.raises(UnsupportedLeafError, match="cannot be written to") as raised:
        check_restorable({"a": (jnp.zeros(1),)})
    assert raised.value.path == "a/0"


def test_what_cannot_be_saved_is_named() -> None:
    gone = jnp.zeros(3)
    gone.delete()
    with pytest.raises(UnsupportedLeafError, match="donated or deleted") as raised:
        flatten({"m": gone})
    assert raised.value.path == "m"
    with pytest.raises(UnsupportedLeafError, match="tracer"):
        jax.jit(lambda x: flatten({"x": x}))(jnp.zeros(2))
    with pytest.raises(UnsupportedLeafError, match="jax array of dtype int4"):
        flatten([jnp.zeros(2, "int4")])


def test_a_view_copies_because_jax_would_keep_no_hold_of_the_memory() -> None:
    arena = Arena()
    flat = flatten({"a": jnp.arange(5000.0)})
    layout = plan(flat.specs)
    stage(flat, layout, arena.reserve(layout.total))
    array = view(flat, layout, arena.lend())["a"]
    jax.block_until_ready(array)
    assert not arena.lent()
    arena.reserve(layout.total)[:] = bytes(layout.total)
    assert array[-1] == 4999
