"""Scalars of numpy to and from JSON, bit for bit. Apart, so that whoever meets none imports no numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import DTYPES
from .dtypes import Json, UnsaveableError

__all__ = ["decode_numpy", "encode_numpy"]

_DTYPES: dict[str, np.dtype[Any]] = {**DTYPES, "C128": np.dtype("<c16")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_numpy(value: object) -> Json:
    """Give a scalar as JSON; None if it is none of numpy's.

    Raises:
        UnsaveableError: Its type has no name in safetensors.
    """
    if not isinstance(value, np.generic):
        return None
    name = _NAMES.get(value.dtype)
    if name is None:
        msg = f"a numpy scalar of dtype {value.dtype}"
        raise UnsaveableError(msg)
    return ["numpy", name, value.tobytes().hex()]


def decode_numpy(name: object, text: object) -> np.generic:
    """Undo :func:`encode_numpy`; takes what follows the tag.

    Raises:
        ValueError: It is not what that gives.
    """
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None or not isinstance(text, str) or not text.isascii():
        msg = "malformed numpy scalar"
        raise ValueError(msg)
    data = bytes.fromhex(text)
    if len(data) != dtype.itemsize:
        msg = "numpy scalar of a wrong size"
        raise ValueError(msg)
    scalar: np.generic = np.frombuffer(data, dtype)[0]
    return scalar
