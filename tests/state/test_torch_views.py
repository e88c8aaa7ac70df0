"""torch tensors are read where they lie, whatever their strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from async_ckpt.state.arrays import DTYPES, as_stored
from async_ckpt.state.torch_arrays import describe

torch = pytest.importorskip("torch")

DTYPE_NAMES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2"),
)

VIEWS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda t: t,
    "transposed": lambda t: t.T,
    "every other": lambda t: t[::2, 1::3],
    "a column": lambda t: t[:, 2],
    "one element": lambda t: t[1:2, 1:2],
    "a scalar": lambda t: t[1, 2],
    "expanded": lambda t: t[:, :1].expand(6, 9),
    "nothing": lambda t: t[:0],
    "permuted": lambda t: t.reshape(2, 3, 8).permute(2, 0, 1),
}


def made(name: str) -> Any:
    return torch.arange(48).reshape(6, 8).to(getattr(torch, name))


@pytest.mark.parametrize("name", DTYPE_NAMES)
@pytest.mark.parametrize("view", VIEWS)
def test_any_view_is_read_in_place(name: str, view: str) -> None:
    base = made(name)
    tensor = VIEWS[view](base)
    stored = as_stored(tensor)
    dtype, shape, _ = describe(tensor)
    assert stored.dtype == DTYPES[dtype]
    assert stored.shape == shape
    if stored.size:
        assert stored.ctypes.data == tensor.data_ptr()
    whole = np.ascontiguousarray(stored).tobytes()
    assert whole == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_a_parameter_is_read_in_place_and_follows_its_changes() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4, 5))
    stored = as_stored(parameter.T)
    with torch.no_grad():
        parameter[1, 2] = 7
    assert stored[2, 1] == 7


@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_what_was_never_computed_is_computed(name: str) -> None:
    tensor = torch.arange(4).to(getattr(torch, name)) * (1 + 2j)
    for lazy in (tensor.conj(), tensor.conj().imag, tensor.conj()[::2]):
        plain = np.asarray(lazy.resolve_conj().resolve_neg())
        dtype, shape, _ = describe(lazy)
        assert as_stored(lazy).tobytes() == np.ascontiguousarray(plain).tobytes()
        assert (as_stored(lazy).dtype, as_stored(lazy).shape) == (DTYPES[dtype], shape)
