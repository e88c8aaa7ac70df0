"""Arrays of any library to and from a dtype name, a shape and bytes.

torch and jax are never imported here: an array of theirs can only exist once they are loaded, so they
are looked up in ``sys.modules``. Stored bytes are little-endian and in C order. What storage cannot
say (the library, the byte order, complex128, a long text) is the array's ``kind``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter, methodcaller
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from . import jax_arrays, torch_arrays
from .dtypes import UnsaveableError, checked_nbytes

__all__ = [
    "DTYPES",
    "KINDS",
    "NAMES",
    "Array",
    "ArraySpec",
    "Bytes",
    "as_bytes_view",
    "as_stored",
    "check_kind",
    "describe",
    "from_buffer",
    "is_array",
    "is_immutable",
    "numpy_spec",
    "present",
    "stored",
    "traits",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Array: TypeAlias = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}

_SHAPED = (attrgetter("dtype"), attrgetter("shape"))
_NUMPY_TRAITS = _SHAPED
_TORCH_TRAITS = (*_SHAPED, attrgetter("layout"), attrgetter("is_meta"))
# The sharding says whether all of it is within reach of this process, and is quicker to ask for.
_JAX_TRAITS = (*_SHAPED, attrgetter("sharding"), methodcaller("is_deleted"))

_C128 = np.dtype("<c16")
_TEXT_KINDS = frozenset({"str", "bytes", "bytearray"})
_BY_TYPE: dict[type, str] = {str: "str", bytes: "bytes", bytearray: "bytearray"}

KINDS = (
    frozenset({"numpy", "numpy:be", "numpy:c128", "numpy:c128be"})
    | _TEXT_KINDS
    | torch_arrays.KINDS
    | jax_arrays.KINDS
)


class ArraySpec(NamedTuple):
    """How an array is stored.

    Attributes:
        dtype: The safetensors name of the stored elements; complex128 is stored as pairs of ``F64``.
        shape: The stored shape; that of a complex128 array has a last dimension of 2.
        kind: What it comes back as: ``numpy``, ``torch``, ``jax``, ``str``, ``bytes``, ``bytearray``,
            some with a variant after a colon.
    """

    dtype: str
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return checked_nbytes(self.dtype, self.shape)


def is_array(value: object) -> bool:
    """Say whether ``value`` is an array of numpy, or of torch or jax if those are loaded."""
    return isinstance(value, np.ndarray) or torch_arrays.is_tensor(value) or jax_arrays.is_array(value)


def is_immutable(value: object) -> bool:
    """Say whether the bytes of an array can never change; :func:`.jax_arrays.hold` keeps it without a copy.

    True of jax arrays. One that jax made of a numpy array without copying it (``device_put``) shares the
    numpy array's fate: jax forbids writing to that as long as the jax array lives.
    """
    return jax_arrays.is_array(value)


def describe(value: object) -> ArraySpec:
    """Say how an array, or a text or bytes object kept as one, is stored. Copies nothing.

    Raises:
        UnsaveableError: It cannot be stored; the message says what it is, in words.
    """
    if isinstance(value, np.ndarray):
        return _describe_numpy(value)
    if type(value) in _BY_TYPE:
        size = len(as_stored(value))
        return ArraySpec("U8", (size,), _BY_TYPE[type(value)])
    if torch_arrays.is_tensor(value):
        return ArraySpec(*torch_arrays.describe(value))
    return ArraySpec(*jax_arrays.describe(value, NAMES))


def traits(value: object) -> tuple[Callable[[Any], object], ...]:
    """Give the questions that, together with the type, decide what :func:`describe` says of an array.

    Two arrays of one type that answer them equally are stored alike. Text and bytes have none: look at them.
    """
    if isinstance(value, np.ndarray):
        return _NUMPY_TRAITS
    if type(value) in _BY_TYPE:
        return ()
    return _TORCH_TRAITS if torch_arrays.is_tensor(value) else _JAX_TRAITS


def _describe_numpy(value: Array) -> ArraySpec:
    if type(value) is not np.ndarray and type(value) is not np.memmap:
        msg = f"a numpy subclass, {type(value).__qualname__}, whose extra parts would be lost"
        raise UnsaveableError(msg)
    return numpy_spec(value.dtype, value.shape)


@lru_cache(maxsize=1024)
def numpy_spec(dtype: np.dtype[Any], shape: tuple[int, ...]) -> ArraySpec:
    """Say how a ``numpy.ndarray`` is stored; one record for all that are alike, of which a state has many.

    Raises:
        UnsaveableError: As :func:`describe`.
    """
    name = NAMES.get(dtype)
    if name is not None:
        return ArraySpec(name, shape, "numpy")
    native = dtype.newbyteorder("<")
    swapped = "be" if native != dtype else ""
    if native == _C128:
        return ArraySpec("F64", (*shape, 2), f"numpy:c128{swapped}")
    name = NAMES.get(native)
    if name is None:
        msg = f"a numpy array of dtype {dtype}"
        raise UnsaveableError(msg)
    return ArraySpec(name, shape, "numpy:be")


def as_stored(value: object) -> Array:
    """Give the array as it is stored: a numpy array whose elements and shape are those of its spec.

    Shares memory where it can; strides may be anything and the byte order may still be big-endian (the
    copy into a little-endian destination converts it). A tensor on a device is copied to the host.
    """
    if isinstance(value, np.ndarray):
        dtype = value.dtype
        if dtype.kind == "c" and dtype.itemsize == 16:
            return _pairs(value)
        return value
    if isinstance(value, str):
        return np.frombuffer(value.encode("utf-8", "surrogatepass"), np.uint8)
    if isinstance(value, bytes | bytearray):
        return np.frombuffer(value, np.uint8)
    if torch_arrays.is_tensor(value):
        return torch_arrays.as_numpy(value, DTYPES[torch_arrays.describe(value)[0]])
    host = jax_arrays.as_numpy(value)
    return _pairs(host) if host.dtype == _C128 else host


def _pairs(value: Array) -> Array:
    """View complex numbers as pairs of floats, whatever the strides; copies nothing."""
    big = value.dtype.newbyteorder("<") != value.dtype
    pairs: Array = value[..., None].view(">f8" if big else "<f8")
    return pairs


def as_bytes_view(value: object) -> Bytes:
    """Give the stored bytes as one flat row; a view if they already lie that way, else a copy."""
    array = as_stored(value)
    if array.dtype not in NAMES:
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def stored(dtype: str, shape: tuple[int, ...], memory: Any, *, writeable: bool = False) -> Array:
    """See ``memory`` (bytes-like, exactly as long as the tensor) as an array of stored elements.

    The array shares the memory and keeps it alive.

    Raises:
        ValueError: Sizes do not fit, or numpy has no such shape.
    """
    nbytes = checked_nbytes(dtype, shape)
    flat = memory if isinstance(memory, np.ndarray) else np.frombuffer(memory, np.uint8)
    if flat.nbytes != nbytes:
        msg = f"{flat.nbytes} bytes for a tensor of {nbytes}"
        raise ValueError(msg)
    array: Array = flat.view(DTYPES[dtype]).reshape(shape)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    return array


def from_buffer(spec: ArraySpec, memory: Any, *, writeable: bool = False) -> Any:
    """Make the value a spec describes from its stored bytes; shares ``memory`` where the library allows it.

    Raises:
        ValueError: The spec contradicts itself or the size of ``memory``.
    """
    return present(stored(spec.dtype, spec.shape, memory, writeable=writeable), spec.kind)


def check_kind(kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Check that ``kind`` is known and can be made of such elements.

    Raises:
        ValueError: It is not, or it cannot.
    """
    if kind not in KINDS:
        msg = f"unknown kind of array {kind!r}"
        raise ValueError(msg)
    if kind in _TEXT_KINDS:
        fits = dtype == "U8" and len(shape) == 1
    elif "c128" in kind:
        fits = dtype == "F64" and shape[-1:] == (2,)
    elif ":key:" in kind:
        fits = dtype == "U32" and len(shape) >= 1
    elif kind == "numpy:be":
        fits = DTYPES[dtype].newbyteorder(">") != DTYPES[dtype]
    else:
        fits = True
    if not fits:
        msg = f"{dtype} of shape {shape} cannot be a {kind}"
        raise ValueError(msg)


def present(array: Any, kind: str) -> Any:
    """Turn a stored array into what it was: a torch tensor, a jax array, text, another byte order.

    Shares memory where the library allows it. Without torch or jax loaded their arrays stay numpy. What was
    turned already is given back as it is.

    Raises:
        ValueError: The kind is unknown or does not fit the array.
    """
    name = NAMES.get(array.dtype) if isinstance(array, np.ndarray) else None
    if name is None:
        return array
    check_kind(kind, name, array.shape)
    if kind == "numpy":
        return array
    if kind in _TEXT_KINDS:
        return _text(array, kind)
    if kind in torch_arrays.KINDS:
        return torch_arrays.present(array, name, kind)
    if kind in jax_arrays.KINDS:
        return jax_arrays.present(array, kind)
    if "c128" in kind:
        array = np.ascontiguousarray(array).view(_C128).reshape(array.shape[:-1])
    return array.astype(array.dtype.newbyteorder(">")) if kind.endswith("be") else array


def _text(array: Array, kind: str) -> str | bytes | bytearray:
    data = array.tobytes()
    if kind == "bytes":
        return data
    return bytearray(data) if kind == "bytearray" else data.decode("utf-8", "surrogatepass")
