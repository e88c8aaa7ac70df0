"""Random generators: their state as plain values and small arrays, and back.

What is kept is where the stream stands. The seed sequence behind it (which ``Generator.spawn`` uses) is not:
numpy does not let one be put into a living generator.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.random import MT19937, PCG64, PCG64DXSM, SFC64, BitGenerator, Generator, Philox, RandomState

from .dtypes import UnsaveableError

__all__ = ["Rng", "capture", "is_rng", "kind_of"]

_BIT_GENERATORS: dict[str, Any] = {cls.__name__: cls for cls in (MT19937, PCG64, PCG64DXSM, Philox, SFC64)}
_MT_LENGTH = 624
_PHILOX_BUFFER = 4
_PYTHON_VERSION = 3

# What numpy and the standard library raise for a state that is not one of theirs.
_REFUSED = (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError)


def is_rng(value: object) -> bool:
    """Say whether ``value`` is a random generator of numpy or of the standard library."""
    return isinstance(value, Generator | RandomState | BitGenerator) or type(value) is random.Random


def _bits(value: Any) -> Any:
    if isinstance(value, Generator):
        return value.bit_generator
    return value._bit_generator if isinstance(value, RandomState) else value


def kind_of(value: object) -> str:
    """Name the generator and its algorithm, such as ``Generator/PCG64``.

    Raises:
        UnsaveableError: It is of a type that cannot be made again.
    """
    if type(value) is random.Random:
        return "Random/MT19937"
    bits = type(_bits(value))
    if _BIT_GENERATORS.get(bits.__name__) is not bits:
        msg = f"a random generator of the foreign type {bits.__qualname__}"
        raise UnsaveableError(msg)
    if isinstance(value, BitGenerator):
        return f"BitGenerator/{bits.__name__}"
    for cls in (Generator, RandomState):
        if type(value) is cls:
            return f"{cls.__name__}/{bits.__name__}"
    msg = f"a random generator of the foreign type {type(value).__qualname__}"
    raise UnsaveableError(msg)


def capture(value: Any) -> dict[str, Any]:
    """Take the state, as a copy."""
    if isinstance(value, random.Random):
        _, words, gauss = value.getstate()
        return {"words": np.array(words, np.uint32), "gauss": gauss}
    if isinstance(value, RandomState):
        return dict(value.get_state(legacy=False))
    state = _bits(value).state
    return dict(state)


class Rng:
    """A saved generator: a fresh one made of foreign data, which proves the data sound.

    Attributes:
        kind: As :func:`kind_of` gives it.
        value: A generator in the saved state; nobody else's.
    """

    __slots__ = ("_state", "kind", "value")

    def __init__(self, kind: object, state: object) -> None:
        """Check everything that numpy does not.

        Raises:
            ValueError: It is not the state of such a generator.
        """
        cls, _, bits = kind.partition("/") if isinstance(kind, str) else ("", "", "")
        if not isinstance(state, dict) or bits not in _BIT_GENERATORS:
            msg = "malformed state of a random generator"
            raise ValueError(msg)
        self.kind = f"{cls}/{bits}"
        self._state: dict[str, Any] = state
        try:
            self.value = self._make(cls, bits)
        except _REFUSED as error:
            msg = f"malformed state of a random generator: {error}"
            raise ValueError(msg) from error

    def _make(self, cls: str, bits: str) -> Any:
        if cls == "Random":
            made: Any = random.Random(0)  # noqa: S311 - it gets the caller's own state, no secret
            self.put(made)
            return made
        self._check_positions(bits)
        made = _BIT_GENERATORS[bits](0)
        if cls != "BitGenerator":
            made = {"Generator": Generator, "RandomState": RandomState}[cls](made)
        self.put(made)
        return made

    def _check_positions(self, bits: str) -> None:
        """Refuse a position outside its buffer: numpy would read past the end of it."""
        state = self._state
        if bits == "MT19937" and not 0 <= _integer(state["state"]["pos"]) <= _MT_LENGTH:
            msg = "position out of range"
            raise ValueError(msg)
        if bits == "Philox" and not 0 <= _integer(state["buffer_pos"]) <= _PHILOX_BUFFER:
            msg = "position out of range"
            raise ValueError(msg)

    def put(self, target: Any) -> None:
        """Set a living generator of the same kind to the saved state."""
        if isinstance(target, random.Random):
            words = tuple(int(word) for word in self._state["words"])
            target.setstate((_PYTHON_VERSION, words, self._state["gauss"]))
        elif isinstance(target, RandomState):
            target.set_state(self._state)
        else:
            _bits(target).state = self._state


def _integer(value: object) -> int:
    if type(value) is not int:
        msg = "integer expected"
        raise ValueError(msg)
    return value
