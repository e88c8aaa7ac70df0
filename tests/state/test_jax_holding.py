"""jax arrays are kept by reference, and what is kept stays what it was, donation and deletion included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.state.arrays import as_stored, is_immutable
from async_ckpt.state.jax_arrays import Donations, hold, hold_all, lies_on_host

jax = pytest.importorskip("jax")
jnp = jax.numpy

N = 2**18
"""Elements of an array that is large enough to be shared."""


def fresh(count: int = N) -> Any:
    return jax.block_until_ready(jnp.arange(count, dtype="float32") + 1)


def values(count: int = N) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.arange(count, dtype=np.float32) + 1


def where(array: Any) -> int:
    pointer: int = array.unsafe_buffer_pointer()
    return pointer


donate = jax.jit(lambda array: array * 2 + 1, donate_argnums=0)


def test_a_large_array_on_the_cpu_is_shared_and_read_only() -> None:
    array = fresh()
    held = hold(array)
    assert lies_on_host(array)
    assert held.ctypes.data == where(array)
    assert not held.flags.writeable
    assert held.dtype == np.float32
    assert held.shape == (N,)


def test_a_step_reuses_a_donated_array_that_nobody_holds() -> None:
    array = fresh()
    hold(array)
    before = where(array)
    assert where(jax.block_until_ready(donate(array))) == before


def test_a_held_array_outlives_its_donation_and_the_step_computes_the_same() -> None:
    array = fresh()
    held = hold(array)
    after = jax.block_until_ready(donate(array))
    del array
    np.testing.assert_array_equal(held, values())
    np.testing.assert_array_equal(np.asarray(after), values() * 2 + 1)
    for _ in range(3):
        after = jax.block_until_ready(donate(after))
    np.testing.assert_array_equal(held, values())


def test_a_view_of_what_is_held_is_as_good() -> None:
    array = fresh()
    row = hold(array).reshape(-1).view(np.uint8)[400:4000]
    jax.block_until_ready(donate(array))
    np.testing.assert_array_equal(row, values().view(np.uint8)[400:4000])


@pytest.mark.parametrize(
    "alias",
    [
        lambda array: jax.device_put(array),
        lambda array: jnp.asarray(array),
        lambda array: array.addressable_data(0),
        lambda array: array.addressable_shards[0].data,
        lambda array: jnp.from_dlpack(array),
        lambda array: jax.make_array_from_single_device_arrays(array.shape, array.sharding, [array]),
    ],
    ids=["device_put", "asarray", "addressable_data", "shard", "dlpack", "make_array"],
)
def test_donating_another_array_of_the_same_memory_changes_nothing_either(alias: Any) -> None:
    array = fresh()
    held = hold(array)
    other = alias(array)
    assert where(other) == where(array)
    after = jax.block_until_ready(donate(other))
    np.testing.assert_array_equal(held, values())
    np.testing.assert_array_equal(np.asarray(after), values() * 2 + 1)


def test_a_held_array_outlives_its_deletion() -> None:
    array = fresh()
    held = hold(array)
    array.delete()
    others = [jax.block_until_ready(jnp.full(N, i, "float32")) for i in range(10)]
    np.testing.assert_array_equal(held, values())
    del others


def test_a_held_array_that_is_still_being_computed_is_waited_for() -> None:
    matrix = jnp.ones((500, 500)) / 500
    held = hold(jax.jit(lambda m: m @ m @ m)(matrix))
    np.testing.assert_allclose(held, 1 / 500, rtol=1e-5)


def test_what_was_donated_before_is_refused_in_words() -> None:
    array = fresh()
    donate(array)
    with pytest.raises(RuntimeError, match="deleted"):
        hold(array)


def test_a_small_array_is_copied_and_stays_free_to_be_donated() -> None:
    array = fresh(100)
    held = hold(array)
    assert held.ctypes.data != where(array)
    assert not held.flags.writeable
    jax.block_until_ready(donate(array))
    assert array.is_deleted()
    np.testing.assert_array_equal(held, values(100))


def test_keys_complex_numbers_and_small_floats_are_held_as_they_are_stored() -> None:
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(7), N // 8)
        numbers = jnp.arange(N, dtype="complex128") * 1j
        halves = jnp.ones(N, "bfloat16")
        arrays = [keys, numbers, halves, jnp.float32(3), jnp.zeros((0, 3))]
        before = [as_stored(array).tobytes() for array in arrays]
        held = hold_all(arrays)
        for array in arrays:
            array.delete()
        assert [as_stored(array).tobytes() for array in held] == before
    assert [str(array.dtype) for array in held] == ["uint32", "complex128", "bfloat16", "float32", "float64"]
    assert [array.shape for array in held] == [(N // 8, 2), (N,), (N,), (), (0, 3)]


def test_a_donated_key_is_held() -> None:
    keys = jax.random.split(jax.random.key(7), N // 8)
    before = np.array(jax.random.key_data(keys))
    held = hold(keys)
    after = jax.jit(lambda k: jax.random.wrap_key_data(jax.random.key_data(k) + 1), donate_argnums=0)(keys)
    jax.block_until_ready(after)
    np.testing.assert_array_equal(held, before)


def test_only_jax_arrays_never_change() -> None:
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    assert is_immutable(jnp.zeros(3))
    assert is_immutable(jax.random.key(0))
    assert not any(is_immutable(value) for value in (frozen, np.zeros(3), bytearray(3), 5))


class TestDonations:
    def test_training_that_donates_is_known_at_the_second_save(self) -> None:
        donations = Donations()
        bias, weight, other = fresh(10), fresh(), np.zeros(3)
        assert not donations.look([other, weight, bias, "text"])
        held = hold_all([weight, bias])
        weight, bias = donate(weight), donate(bias)
        assert donations.look([other, weight, bias])
        assert donations.seen
        assert donations.look([])
        del held

    def test_training_that_does_not_is_not_suspected(self) -> None:
        donations = Donations()
        bias, weight = fresh(10), fresh()
        kept = []
        for _ in range(3):
            assert not donations.look([weight, bias])
            kept.append(hold_all([weight, bias]))
            bias, weight = bias + 1, weight + 1

    def test_no_large_array_is_kept_alive_to_be_watched(self) -> None:
        donations = Donations()
        donations.look([fresh(), jax.random.split(jax.random.key(0), 4)])
        assert donations._probes == []


def test_what_is_spread_over_devices_is_copied(tmp_path: Path) -> None:
    child = Path(__file__).with_name("sharded_child.py")
    root = str(child.parents[2])
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": root,
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", str(child)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
