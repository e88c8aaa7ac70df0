"""Mutations that know the language, from a seed: what is run where there is no coverage-guided fuzzer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["mutants"]

LONGEST = 1 << 13
_DIGITS = b"0123456789"


def mutants(seeds: Sequence[bytes], tokens: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Give ``count`` inputs, the same ones for the same seed: each some changes away from a real one."""
    draw = random.Random(seed)
    pool = [seed for seed in seeds if seed]
    for number in range(count):
        data = bytearray(pool[number % len(pool)] if number < len(pool) else draw.choice(pool))
        for _ in range(min(1 + int(draw.expovariate(0.7)), 12)):
            _change(data, pool, tokens, draw)
        yield bytes(data[:LONGEST])


def _change(data: bytearray, pool: Sequence[bytes], tokens: Sequence[bytes], draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    end = min(len(data), at + 1 + int(draw.expovariate(0.1)))
    kind = draw.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = draw.randrange(256)
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = draw.choice(tokens)
    elif kind == 4:
        data[at:end] = draw.choice(tokens)
    elif kind == 5:
        data[at:at] = data[at:end] * draw.choice((1, 1, 2, 50))
    elif kind == 6:
        other = draw.choice(pool)
        start = draw.randrange(len(other))
        data[at:end] = other[start : start + 1 + int(draw.expovariate(0.03))]
    else:
        _change_number(data, at, draw)


def _change_number(data: bytearray, at: int, draw: random.Random) -> None:
    """Change the number at or after a place: numbers are what sizes and offsets are made of."""
    while at < len(data) and data[at] not in _DIGITS:
        at += 1
    end = at
    while end < len(data) and data[end] in _DIGITS:
        end += 1
    if at < end:
        value = int(data[at : min(end, at + 19)])
        other = (value + 1, value - 1, value * 2, value + 2**53, 2**63, 0, -value, draw.randrange(5000))
        data[at:end] = str(draw.choice(other)).encode()
