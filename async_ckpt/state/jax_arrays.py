"""jax arrays, if jax is loaded. It is looked up, never imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import UnsaveableError

__all__ = ["KINDS", "as_numpy", "describe", "is_array", "place", "present"]

_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")
KINDS = frozenset({"jax", "jax:c128", *(f"jax:key:{impl}" for impl in _IMPLS)})


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
    host: npt.NDArray[Any] = np.asarray(_jax().random.key_data(array) if _is_key(array) else array)
    return host


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
