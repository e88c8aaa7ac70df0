"""The element types a checkpoint may hold, by their safetensors names. Pure."""

from __future__ import annotations

from typing import TypeAlias, Union

__all__ = ["ITEMSIZE", "PAGE", "Json", "UnsaveableError", "checked_nbytes"]

Json: TypeAlias = Union[bool, int, str, "list[Json]", None]
"""What a structure is made of: JSON without objects and floats, so that it survives any JSON library."""

PAGE = 4096
"""Bytes; what ``O_DIRECT`` wants offsets, lengths and addresses to be a multiple of."""

ITEMSIZE: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes per element."""


class UnsaveableError(TypeError):
    """A value cannot be saved; the message says what it is, in words that can follow "cannot save"."""


def checked_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes, in Python integers, which do not wrap.

    Raises:
        ValueError: The dtype is unknown, or a dimension is negative.
    """
    size = ITEMSIZE.get(dtype)
    if size is None:
        msg = f"unknown dtype {dtype!r}"
        raise ValueError(msg)
    for dimension in shape:
        if dimension < 0:
            msg = f"negative dimension in shape {shape}"
            raise ValueError(msg)
        size *= dimension
    return size
