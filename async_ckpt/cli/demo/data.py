"""The digits: 1797 real scans of 8 x 8 pixels, split once, served in shuffled batches.

The scans are the UCI "Optical Recognition of Handwritten Digits" test set that scikit-learn ships
inside its package, so nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from async_ckpt.cli.demo.model import Floats

__all__ = ["Digits", "Position", "load", "next_batch", "start"]

HELD_OUT = 360
SPLIT_SEED = 20


@dataclass(frozen=True, slots=True)
class Digits:
    """Images of shape ``(n, 64)`` from 0 to 1, and the digit that each one shows.

    Attributes:
        images: For training.
        labels: Their digits.
        held_images: Never trained on; the listener measures the accuracy on them.
        held_labels: Their digits.
    """

    images: Floats
    labels: NDArray[np.int64]
    held_images: Floats
    held_labels: NDArray[np.int64]


class Position(TypedDict):
    """Where the run stands in its data: the order of this epoch, and how much of it is used up."""

    order: NDArray[np.int64]
    offset: int


def load() -> Digits:
    """Return the digits; the split is the same in every process and on every machine."""
    # scikit-learn takes a second to import; only a run that trains has to pay for it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    pixels, digits = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.float32) / np.float32(16)
    labels = np.asarray(digits, dtype=np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    held, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train], images[held], labels[held])


def start(rng: np.random.Generator, examples: int) -> Position:
    """Return the position at the beginning of the first epoch."""
    return Position(order=rng.permutation(examples), offset=0)


def next_batch(position: Position, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Return the indices of the next batch and move on; a new epoch is shuffled in place.

    Examples at the end of an epoch that do not fill a batch are left out of that epoch.
    """
    if position["offset"] + size > len(position["order"]):
        rng.shuffle(position["order"])
        position["offset"] = 0
    begin = position["offset"]
    position["offset"] = begin + size
    return position["order"][begin : begin + size].copy()
