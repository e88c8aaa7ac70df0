"""How far two arrays are apart, in pieces, so that it takes little memory. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "difference"]

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays of one shape differ.

    Attributes:
        largest: The largest absolute difference; infinite where an infinity stands beside something else.
        mean: The mean of the absolute differences over all elements.
        elements: How many differ, by value: -0.0 is 0.0, and NaN is NaN.
        nans: How many are NaN on one side only; they count in ``elements`` and in nothing else.
    """

    largest: float
    mean: float
    elements: int
    nans: int


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Difference:
    """Compare two arrays of the same shape, of any dtypes a checkpoint may hold."""
    left, right = a.reshape(-1), b.reshape(-1)
    largest, total, elements, nans = 0.0, 0.0, 0, 0
    for at in range(0, left.size, _PIECE):
        x, y = left[at : at + _PIECE], right[at : at + _PIECE]
        apart, lonely = _apart(x, y)
        nans += int(lonely.sum())
        elements += int(np.count_nonzero(apart)) + int(lonely.sum())
        if apart.size:
            largest = max(largest, float(apart.max()))
        total += float(apart.sum())
    mean = total / left.size if left.size else 0.0
    return Difference(largest, math.inf if math.isnan(mean) else mean, elements, nans)


def _apart(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Absolute differences as floats, 0 where one is NaN; and where just one of them is."""
    if x.dtype == y.dtype and x.dtype.kind in "iu":
        # Larger than either type may hold, but never larger than its unsigned form.
        unsigned = np.dtype(f"u{x.dtype.itemsize}")
        return (np.maximum(x, y).view(unsigned) - np.minimum(x, y).view(unsigned)).astype(float), np.zeros(
            x.shape, bool
        )
    wide = complex if "c" in (x.dtype.kind, y.dtype.kind) else float
    x, y = x.astype(wide), y.astype(wide)
    missing_x, missing_y = np.isnan(x), np.isnan(y)
    same = (x == y) | missing_x | missing_y
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(np.where(same, 0, x - y))
    return apart, missing_x ^ missing_y
