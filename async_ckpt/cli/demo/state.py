"""What a checkpoint of the demo holds, and the step that changes it.

All a run depends on is in here: weights, both Adam moments and their count, the random generator,
and the position in the shuffled data. That is why a run that was killed and resumed ends with the
same bytes as one that was left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from async_ckpt.cli.demo import data, model

if TYPE_CHECKING:
    from async_ckpt.cli.demo.data import Digits, Position
    from async_ckpt.cli.demo.model import Params

__all__ = ["TrainState", "new_state", "train_step"]

BATCH = 64


class Moments(TypedDict):
    """Adam's running means of the gradient and of its square, and the number of updates so far."""

    mean: Params
    square: Params
    count: int


class TrainState(TypedDict):
    """The whole state; each key becomes a file of the checkpoint where it holds arrays."""

    model: Params
    optimizer: Moments
    data: Position
    rng: np.random.Generator


def new_state(digits: Digits, *, hidden: int, seed: int = 0) -> TrainState:
    """Return the state of a run that has not taken a step yet."""
    rng = np.random.default_rng(seed)
    params = model.new_params(rng, digits.images.shape[1], hidden, 10)
    return TrainState(
        model=params,
        optimizer=Moments(mean=_zeros(params), square=_zeros(params), count=0),
        data=data.start(rng, len(digits.labels)),
        rng=rng,
    )


def train_step(state: TrainState, digits: Digits, rate: float) -> float:
    """Train on the next batch, change ``state`` in place, and return the batch's loss."""
    batch = data.next_batch(state["data"], state["rng"], BATCH)
    loss, grads = model.gradients(state["model"], digits.images[batch], digits.labels[batch], state["rng"])
    adam = state["optimizer"]
    adam["count"] += 1
    model.adam(state["model"], grads, adam["mean"], adam["square"], adam["count"], rate)
    return loss


def _zeros(params: Params) -> Params:
    return {name: np.zeros_like(value) for name, value in params.items()}
