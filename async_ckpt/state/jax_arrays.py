"""jax arrays, if jax is loaded. It is looked up, never imported."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import UnsaveableError

__all__ = [
    "KINDS",
    "Donations",
    "as_numpy",
    "describe",
    "hold",
    "hold_all",
    "is_array",
    "lies_on_host",
    "place",
    "present",
]

_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")
KINDS = frozenset({"jax", "jax:c128", *(f"jax:key:{impl}" for impl in _IMPLS)})

_SMALL = 64 * 2**10
"""Bytes up to which a copy is cheaper than what a reference does to a step that donates."""

_PROBES = 64


def _jax() -> Any:
    module = sys.modules.get("jax")
    return module if hasattr(module, "Array") else None


def is_array(value: object) -> bool:
    """Say whether ``value`` is a jax array."""
    jax = _jax()
    return jax is not None and isinstance(value, jax.Array)


def _is_key(array: Any) -> bool:
    jax = _jax()
    return bool(jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key))


def describe(array: Any, names: Mapping[Any, str]) -> tuple[str, tuple[int, ...], str]:
    """Give dtype, shape and kind of a jax array as it is stored; waits for no computation.

    Raises:
        UnsaveableError: It cannot be stored; the message says what it is.
    """
    jax = _jax()
    if isinstance(array, jax.core.Tracer):
        msg = "a jax tracer: the state was taken inside a transformed function"
        raise UnsaveableError(msg)
    if array.is_deleted():
        msg = "a jax array that was donated or deleted"
        raise UnsaveableError(msg)
    if not array.is_fully_addressable:
        msg = "a jax array with shards in other processes"
        raise UnsaveableError(msg)
    if _is_key(array):
        impl = str(jax.random.key_impl(array))
        if impl not in _IMPLS:
            msg = f"a jax key of the implementation {impl}"
            raise UnsaveableError(msg)
        return "U32", tuple(jax.random.key_data(array).shape), f"jax:key:{impl}"
    shape = tuple(array.shape)
    if array.dtype == np.complex128:
        return "F64", (*shape, 2), "jax:c128"
    name = names.get(np.dtype(array.dtype))
    if name is None:
        msg = f"a jax array of dtype {array.dtype}"
        raise UnsaveableError(msg)
    return name, shape, "jax"


def as_numpy(array: Any) -> npt.NDArray[Any]:
    """Give the array on the host; waits until it is computed, shares memory if it lies there already."""
    host: npt.NDArray[Any] = np.asarray(_plain(array))
    return host


def _plain(array: Any) -> Any:
    return _jax().random.key_data(array) if _is_key(array) else array


def lies_on_host(array: Any) -> bool:
    """Say whether the bytes lie in the host's memory in one piece, so that :func:`hold` shares them."""
    return array.is_fully_replicated and all(device.platform == "cpu" for device in array.devices())


def hold(array: Any) -> npt.NDArray[Any]:
    """Give the array on the host, to be kept: it stays valid and unchanged whatever becomes of ``array``.

    What :func:`lies_on_host` is shared, unless it is small. jax counts the reference: a step that the array
    is donated to takes fresh memory for its result and leaves this alone, ``delete()`` frees it only once
    it is no longer held. Fresh memory is several times slower to write to than a copy is to take, so where
    training donates a copy is better; see :class:`Donations`. What is spread over devices, or lies on others
    than the CPU, is copied, and no copy stays behind in ``array``.

    Waits until the array is computed and leaves the interpreter to others meanwhile.

    Returns:
        A read-only array of the shape and dtype; of a key, its data.

    Raises:
        RuntimeError: The array was donated or deleted before.
    """
    return hold_all([array])[0]


def hold_all(arrays: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Do what :func:`hold` does for several arrays; all copies from devices are started at once."""
    # Arrays of one program share few shardings, and asking each array where it lies is most of the work.
    on_host: dict[Any, bool] = {}
    started = [_start(array, on_host) for array in arrays]
    return [_finish(array) for array in started]


def _start(array: Any, on_host: dict[Any, bool]) -> Any:
    # Keys have a dtype that numpy does not know.
    plain = array if isinstance(array.dtype, np.dtype) else _plain(array)
    sharding = plain.sharding
    here = on_host.get(sharding)
    if here is None:
        here = on_host[sharding] = lies_on_host(plain)
    if here:
        return plain
    # jax keeps what it copied to the host beside the array it was asked for, as long as that lives.
    shards = [shard.data for shard in plain.addressable_shards]
    again = _jax().make_array_from_single_device_arrays(plain.shape, plain.sharding, shards)
    again.copy_to_host_async()
    return again


def _finish(array: Any) -> npt.NDArray[Any]:
    host: npt.NDArray[Any] = np.asarray(array)
    if host.nbytes <= _SMALL:
        host = host.copy()
    host.flags.writeable = False
    return host


class Donations:
    """Learns from one save to the next whether training donates its arrays to its steps.

    An array that is held cannot be donated, and nothing would show that it was meant to be. So a few small
    ones, which :func:`hold` copies, are watched. Keeping them keeps no memory alive once they are donated.

    Attributes:
        seen: Whether an array of an earlier save was donated or deleted since.
    """

    def __init__(self) -> None:
        self.seen = False
        self._probes: list[Any] = []

    def look(self, values: Iterable[Any]) -> bool:
        """Look at what became of the last save's arrays, and watch these from now on.

        Args:
            values: The leaves of the state that is being saved, of any kind.

        Returns:
            ``seen``; it stays true.
        """
        self.seen = self.seen or any(array.is_deleted() for array in self._probes)
        self._probes = list(islice(filter(_is_probe, values), _PROBES))
        return self.seen


def _is_probe(value: Any) -> bool:
    return is_array(value) and not _is_key(value) and value.nbytes <= _SMALL and lies_on_host(value)


def present(array: npt.NDArray[Any], kind: str) -> Any:
    """Make a jax array of a stored array, always of a private copy.

    Given the array itself, jax may alias it (``may_alias=False`` or not) or hold on to it in some cache, and
    either would outlive the staged memory's next use.

    Without jax, or where it would narrow the dtype (64 bits while they are disabled), gives the array itself.
    """
    if kind == "jax:c128":
        array = np.ascontiguousarray(array).view("<c16").reshape(array.shape[:-1])
    jax = _jax()
    if jax is None or jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array
    made = jax.device_put(array.copy())
    _, _, impl = kind.partition("jax:key:")
    return jax.random.wrap_key_data(made, impl=impl) if impl else made


def place(made: Any, target: Any) -> Any:
    """Put a new array where ``target`` lies, so that a compiled step accepts it as it did the old one."""
    return _jax().device_put(made, target.sharding) if is_array(made) else made
