"""Run with four CPU devices: what is spread over them is copied when held, and leaves nothing behind."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from async_ckpt.state.jax_arrays import Donations, hold, hold_all, lies_on_host

mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
want = np.arange(2**20, dtype=np.float32).reshape(1024, 1024)
double = jax.jit(lambda array: array * 2, donate_argnums=0)


def put(*spec: str | tuple[str, ...] | None) -> jax.Array:
    """Computed, as what jax took over from numpy without copying cannot be donated."""
    below = jax.device_put(want - 1, NamedSharding(mesh, PartitionSpec(*spec)))
    return jax.block_until_ready(below + 1)


assert len(jax.devices()) == 4

for spec in [("x", "y"), ("x",), (None, "y"), (("x", "y"), None)]:
    array = put(*spec)
    assert not lies_on_host(array)
    (held,) = hold_all([array])
    assert array._npy_value is None, "a copy stays with the array"
    assert all(shard.data._npy_value is None for shard in array.addressable_shards)
    assert not held.flags.writeable
    buffers = [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]
    result = jax.block_until_ready(double(array))
    assert [shard.data.unsafe_buffer_pointer() for shard in result.addressable_shards] == buffers
    np.testing.assert_array_equal(held, want)
    np.testing.assert_array_equal(np.asarray(result), want * 2)

everywhere = put()
assert lies_on_host(everywhere)
held = hold(everywhere)
assert held.ctypes.data in [shard.data.unsafe_buffer_pointer() for shard in everywhere.addressable_shards]
jax.block_until_ready(double(everywhere))
np.testing.assert_array_equal(held, want)

keys = jax.device_put(jax.random.split(jax.random.key(1), 4), NamedSharding(mesh, PartitionSpec("x")))
np.testing.assert_array_equal(hold(keys), np.asarray(jax.random.key_data(keys)))

donations = Donations()
small = jax.device_put(np.ones(8), NamedSharding(mesh, PartitionSpec("x")))
donations.look([small])
small.delete()
assert not donations.look([]), "what is copied anyway is not watched"
