"""torch tensors, if torch is loaded. It is looked up, never imported."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import UnsaveableError

__all__ = [
    "KINDS",
    "as_numpy",
    "bytes_in_place",
    "describe",
    "fill",
    "flat_bytes",
    "is_module",
    "is_tensor",
    "lies_elsewhere",
    "load",
    "present",
    "read_part",
]

KINDS = frozenset({"torch", "torch:c128"})

_STORED = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}
_TORCH = {stored: name for name, stored in _STORED.items()}
_WORDS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def load() -> Any:
    """Give the torch module if the program has loaded it, else None."""
    module = sys.modules.get("torch")
    return module if hasattr(module, "Tensor") else None


def is_tensor(value: object) -> bool:
    """Say whether ``value`` is a torch tensor."""
    torch = load()
    return torch is not None and isinstance(value, torch.Tensor)


def is_module(value: object) -> bool:
    """Say whether ``value`` is a ``torch.nn.Module``."""
    torch = load()
    return torch is not None and isinstance(value, torch.nn.Module)


def describe(tensor: Any) -> tuple[str, tuple[int, ...], str]:
    """Give dtype, shape and kind of a tensor as it is stored.

    Raises:
        UnsaveableError: It cannot be stored; the message says what it is.
    """
    torch = load()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, getattr(torch.nn, "Buffer", None)):
        msg = f"a torch tensor subclass, {type(tensor).__qualname__}"
        raise UnsaveableError(msg)
    if tensor.layout is not torch.strided:
        msg = f"a torch tensor of layout {str(tensor.layout).removeprefix('torch.')}"
        raise UnsaveableError(msg)
    if tensor.device.type == "meta":
        msg = "a torch tensor on the meta device, which holds no data"
        raise UnsaveableError(msg)
    name = str(tensor.dtype).removeprefix("torch.")
    shape = tuple(tensor.shape)
    if name == "complex128":
        return "F64", (*shape, 2), "torch:c128"
    if name not in _STORED:
        msg = f"a torch tensor of dtype {name}"
        raise UnsaveableError(msg)
    return _STORED[name], shape, "torch"


def _is_row(tensor: Any) -> bool:
    """Say whether the bytes lie in C order in the host's memory, with nothing left to be computed."""
    return bool(
        tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def bytes_in_place(tensor: Any) -> npt.NDArray[np.uint8] | None:
    """Give the tensor's own memory as a flat writable row of bytes, or None if it is not such a row."""
    if not _is_row(tensor):
        return None
    row: npt.NDArray[np.uint8] = flat_bytes(tensor).numpy()
    return row


def flat_bytes(tensor: Any) -> Any:
    """Give the stored bytes as a flat ``uint8`` tensor on the same device; a view if they lie in a row."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    # A single element counts as contiguous whatever its stride, which `view` does not accept.
    return plain.as_strided((plain.numel(),), (1,)).view(load().uint8)


def lies_elsewhere(value: object) -> bool:
    """Say whether ``value`` is a torch tensor on a device, such as a GPU."""
    torch = load()
    return torch is not None and isinstance(value, torch.Tensor) and _device_of(value) != "cpu"


def _device_of(tensor: Any) -> str:
    kind: str = tensor.device.type
    return kind


def read_part(tensor: Any, low: int, high: int, target: npt.NDArray[np.uint8]) -> None:
    """Copy the stored bytes from ``low`` to ``high`` to the host; no others cross over from the device."""
    load().from_numpy(target).copy_(flat_bytes(tensor)[low:high])


def as_numpy(tensor: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Give the tensor on the host as a numpy array of stored elements; shares memory, whatever the strides.

    Only what lies on a device, or is a conjugate or negative that was never computed, is copied.
    """
    torch = load()
    plain = tensor.detach()
    if dtype.isbuiltin == 1 and plain.dtype is not torch.complex128:
        # It is refused on a device, or if it is not computed yet. Asking first would cost more for the many.
        with contextlib.suppress(RuntimeError, TypeError):
            same: npt.NDArray[Any] = plain.numpy()
            return same
    plain = plain.resolve_conj().resolve_neg().cpu()
    if plain.dtype is torch.complex128:
        plain = torch.view_as_real(plain)
    # numpy lacks some of torch's dtypes, so the elements cross the border as integers of their size.
    words: npt.NDArray[Any] = plain.view(getattr(torch, _WORDS[plain.element_size()])).numpy()
    return words.view(dtype)


def fill(tensor: Any, array: npt.NDArray[Any], stored: str, kind: str) -> None:
    """Copy a stored array into ``tensor``, wherever that lives; shapes and dtypes are equal."""
    with load().no_grad():
        tensor.detach().copy_(present(array, stored, kind))


def present(array: npt.NDArray[Any], stored: str, kind: str) -> Any:
    """Make a tensor of a stored array; shares its memory if that may be written to, else copies.

    A tensor cannot be read-only, and torch warns when it is made of memory that is. Without torch, or with
    one too old for the dtype, gives the array itself.
    """
    torch = load()
    name, shape = ("complex128", array.shape[:-1]) if kind.endswith("c128") else (_TORCH[stored], array.shape)
    dtype = getattr(torch, name, None)
    if dtype is None:
        return array.reshape(-1).view("<c16").reshape(shape) if kind.endswith("c128") else array
    row = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not row.flags.writeable:
        row = row.copy()
    return torch.from_numpy(row).view(dtype).reshape(shape)
