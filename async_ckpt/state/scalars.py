"""Plain values to and from JSON, bit for bit, whatever JSON library is used on either side.

Only text, small non-negative integers, booleans and null stand for themselves; the rest is a list whose first
item is a tag. Numbers travel as text: a JSON number is at the mercy of whoever reads it.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from typing import Any

from .dtypes import Json, UnsaveableError

__all__ = [
    "PLAIN_TYPES",
    "SMALL",
    "decode_bytes",
    "decode_key",
    "decode_scalar",
    "encode_bytes",
    "encode_key",
    "encode_scalar",
]

SMALL = 2**53
"""Integers from zero up to this one stand for themselves."""

_DECIMAL = re.compile(r"(0|-?[1-9][0-9]{0,18})", re.ASCII)
_HEX = re.compile(r"-?0x[1-9a-f][0-9a-f]*", re.ASCII)
_FLOAT = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?", re.ASCII)
_BITS = re.compile(r"x[0-9a-f]{16}", re.ASCII)
_KEYS_DEEP = 8
_KEY_TYPES = (str, int, bool, float, bytes)

PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
"""Exactly these; a subclass would come back as its base."""


def encode_bytes(value: bytes | bytearray) -> str:
    """Give bytes as base64 text."""
    return base64.b64encode(value).decode("ascii")


def decode_bytes(text: object) -> bytes:
    """Undo :func:`encode_bytes`; raises ``ValueError`` for anything else."""
    if not isinstance(text, str):
        msg = "base64 text expected"
        raise ValueError(msg)
    return base64.b64decode(text, validate=True)


def _encode_float(value: float) -> str:
    return repr(value) if math.isfinite(value) else "x" + struct.pack(">d", value).hex()


def _decode_float(text: object) -> float:
    if isinstance(text, str) and _BITS.fullmatch(text):
        value: float = struct.unpack(">d", bytes.fromhex(text[1:]))[0]
        if not math.isfinite(value):
            return value
    elif isinstance(text, str) and _FLOAT.fullmatch(text):
        value = float(text)
        if repr(value) == text:
            return value
    msg = "malformed float"
    raise ValueError(msg)


def _encode_int(value: int) -> Json:
    if 0 <= value < SMALL:
        return value
    return ["int", str(value) if abs(value) < 2**62 else hex(value)]


def _decode_int(text: object) -> int:
    if isinstance(text, str) and _DECIMAL.fullmatch(text):
        return int(text)
    if isinstance(text, str) and _HEX.fullmatch(text):
        return int(text, 16)
    msg = "malformed int"
    raise ValueError(msg)


def _encode_str(value: str) -> Json:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return ["str", encode_bytes(value.encode("utf-8", "surrogatepass"))]
    return value


def encode_scalar(value: object) -> Json:
    """Give a plain value (None, bool, int, float, complex, str, bytes, bytearray, numpy scalar) as JSON.

    Raises:
        UnsaveableError: It is none of these; subclasses are not taken for their base.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[return-value]
    if kind is str:
        return _encode_str(value)  # type: ignore[arg-type]
    if kind is int:
        return _encode_int(value)  # type: ignore[arg-type]
    if kind is float:
        return ["float", _encode_float(value)]  # type: ignore[arg-type]
    if kind is complex:
        return ["complex", _encode_float(value.real), _encode_float(value.imag)]  # type: ignore[attr-defined]
    if kind is bytes or kind is bytearray:
        return [kind.__name__, encode_bytes(value)]  # type: ignore[arg-type]
    from .numpy_scalars import encode_numpy  # noqa: PLC0415 - a tenth of a second, if nobody else has it

    encoded = encode_numpy(value)
    if encoded is not None:
        return encoded
    msg = f"an object of type {kind.__module__}.{kind.__qualname__}"
    raise UnsaveableError(msg)


def _decode_numpy(name: object, text: object) -> Any:
    from .numpy_scalars import decode_numpy  # noqa: PLC0415 - most structures have none

    return decode_numpy(name, text)


_DECODERS: dict[str, tuple[int, Any]] = {
    "int": (1, _decode_int),
    "float": (1, _decode_float),
    "complex": (2, lambda real, imag: complex(_decode_float(real), _decode_float(imag))),
    "str": (1, lambda text: decode_bytes(text).decode("utf-8", "surrogatepass")),
    "bytes": (1, decode_bytes),
    "bytearray": (1, lambda text: bytearray(decode_bytes(text))),
    "numpy": (2, _decode_numpy),
}


def decode_scalar(data: object) -> Any:
    """Undo :func:`encode_scalar`.

    Raises:
        ValueError: ``data`` is not something it returns.
    """
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, int):
        if isinstance(data, bool) or 0 <= data < SMALL:
            return data
    elif isinstance(data, list) and data and isinstance(data[0], str):
        arity, decoder = _DECODERS.get(data[0], (-1, None))
        if arity == len(data) - 1:
            return decoder(*data[1:])
    msg = "malformed plain value"
    raise ValueError(msg)


def encode_key(key: object, depth: int = 0) -> Json:
    """Give a key of a dict (str, int, bool, None, float, bytes, or a tuple of those) as JSON.

    Raises:
        UnsaveableError: It is none of these.
    """
    if type(key) is tuple and depth < _KEYS_DEEP:
        return ["key", *(encode_key(item, depth + 1) for item in key)]
    if key is None or type(key) in _KEY_TYPES:
        return encode_scalar(key)
    msg = f"a key of type {type(key).__module__}.{type(key).__qualname__}"
    raise UnsaveableError(msg)


def decode_key(data: object, depth: int = 0) -> Any:
    """Undo :func:`encode_key`; the result is hashable.

    Raises:
        ValueError: ``data`` is no key.
    """
    if isinstance(data, list) and data and data[0] == "key" and depth < _KEYS_DEEP:
        return tuple(decode_key(item, depth + 1) for item in data[1:])
    key = decode_scalar(data)
    if key is None or type(key) in _KEY_TYPES:
        return key
    msg = "malformed key"
    raise ValueError(msg)
