"""The states that are saved: real shapes, contents that do not compress."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "Spec", "build", "spec"]

Arrays = dict[str, dict[str, npt.NDArray[np.float32]]]
Shapes = dict[str, tuple[int, ...]]

_NOISE = 2**24  # floats; larger than any compressor's window, so that repeating it goes unnoticed
_SHIFT = 7919


@dataclass(frozen=True)
class Spec:
    """Groups of float32 tensors."""

    name: str
    groups: dict[str, Shapes]

    @property
    def shapes(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Group, name and shape of every tensor."""
        for group, tensors in self.groups.items():
            for name, shape in tensors.items():
                yield group, name, shape

    @property
    def nbytes(self) -> int:
        return 4 * sum(math.prod(shape) for _, _, shape in self.shapes)

    @property
    def tensors(self) -> int:
        return sum(len(tensors) for tensors in self.groups.values())


def gpt2(width: int = 768, vocabulary: int = 50257, context: int = 1024, layers: int = 12) -> Shapes:
    """Parameters of GPT-2; the defaults are those of "small": 148 tensors, 124.4 million parameters."""
    shapes: Shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (context, width)}
    for i in range(layers):
        shapes |= {
            f"h.{i}.ln_1.weight": (width,),
            f"h.{i}.ln_1.bias": (width,),
            f"h.{i}.attn.c_attn.weight": (width, 3 * width),
            f"h.{i}.attn.c_attn.bias": (3 * width,),
            f"h.{i}.attn.c_proj.weight": (width, width),
            f"h.{i}.attn.c_proj.bias": (width,),
            f"h.{i}.ln_2.weight": (width,),
            f"h.{i}.ln_2.bias": (width,),
            f"h.{i}.mlp.c_fc.weight": (width, 4 * width),
            f"h.{i}.mlp.c_fc.bias": (4 * width,),
            f"h.{i}.mlp.c_proj.weight": (4 * width, width),
            f"h.{i}.mlp.c_proj.bias": (width,),
        }
    return shapes | {"ln_f.weight": (width,), "ln_f.bias": (width,)}


@functools.cache
def spec(name: str) -> Spec:
    """The state of that name.

    ``gpt2``: parameters and two Adam moments of GPT-2 small. ``gpt2-mini``: the same with an eighth of the
    width. ``many-N``: N tensors of 1 KiB. ``one-N``: one tensor of N bytes. ``size-N``: 48 tensors, N bytes.
    ``frozen-N``: N bytes, nine tenths of them in the groups ``frozen-0`` to ``frozen-8``.

    Raises:
        ValueError: There is none of that name.
    """
    kind, _, size = name.partition("-")
    number = int(size) if size.isdecimal() else 0
    if name in {"gpt2", "gpt2-mini"}:
        shapes = gpt2() if name == "gpt2" else gpt2(width=96, vocabulary=50257 // 8, context=128)
        return Spec(name, {group: dict(shapes) for group in ("model", "exp_avg", "exp_avg_sq")})
    if kind == "many" and number:
        return Spec(name, {"model": {f"t{i:06d}": (256,) for i in range(number)}})
    if kind == "one" and number:
        return Spec(name, {"model": {"weight": (number // 4,)}})
    if kind == "size" and number:
        each = (number // 48 // 4,)
        groups = ("model", "exp_avg", "exp_avg_sq")
        return Spec(name, {group: {f"t{i:02d}": each for i in range(16)} for group in groups})
    if kind == "frozen" and number:
        each = (number // 40 // 4,)
        parts = (*(f"frozen-{i}" for i in range(9)), "tuned")
        return Spec(name, {group: {f"t{i}": each for i in range(4)} for group in parts})
    message = f"no state is called {name!r}"
    raise ValueError(message)


def build(what: Spec) -> Arrays:
    """Make the arrays, each its own allocation, filled with normal noise; the same on every call."""
    noise = np.random.default_rng(0).standard_normal(min(_NOISE, what.nbytes // 4 + _SHIFT), np.float32)
    arrays: Arrays = {group: {} for group in what.groups}
    at = 0
    for group, name, shape in what.shapes:
        array = np.empty(shape, np.float32)
        _fill(array.reshape(-1), noise, at)
        arrays[group][name] = array
        at = (at + _SHIFT) % len(noise)
    return arrays


def _fill(row: npt.NDArray[np.float32], noise: npt.NDArray[np.float32], at: int) -> None:
    done = 0
    while done < len(row):
        count = min(len(noise) - at, len(row) - done)
        row[done : done + count] = noise[at : at + count]
        done += count
        at = 0
