"""A perceptron with two hidden layers, and Adam, in plain numpy.

Everything is float32 and every update happens in place, so the arrays a checkpoint was planned
for stay the same objects for the whole run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Floats", "Params", "accuracy", "adam", "gradients", "new_params"]

Floats: TypeAlias = "NDArray[np.floating[Any]]"
Params: TypeAlias = "dict[str, Floats]"

KEPT = np.float32(0.8)
"""Share of the hidden units a training step keeps: the dropout makes every step draw from the RNG."""


def new_params(rng: np.random.Generator, inputs: int, hidden: int, classes: int) -> Params:
    """Return weights after He et al. (2015), and biases of zero.

    Args:
        rng: Drawn from once per weight.
        inputs: Length of one example.
        hidden: Width of each of the two hidden layers.
        classes: Number of answers.
    """
    sizes = (inputs, hidden, hidden, classes)
    params: Params = {}
    for layer, (rows, columns) in enumerate(pairwise(sizes), start=1):
        spread = np.float32((2.0 / rows) ** 0.5)
        params[f"w{layer}"] = rng.standard_normal((rows, columns), dtype=np.float32) * spread
        params[f"b{layer}"] = np.zeros(columns, dtype=np.float32)
    return params


def gradients(
    params: Params, images: Floats, labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, Params]:
    """Return the mean cross entropy of one batch and its gradient by each parameter.

    Args:
        params: The model, unchanged.
        images: Shape ``(batch, inputs)``.
        labels: Shape ``(batch,)``, the right class of each image.
        rng: Where the dropout masks come from.
    """
    rows = np.arange(len(labels))
    first, first_mask = _hidden(images, params["w1"], params["b1"], rng)
    second, second_mask = _hidden(first, params["w2"], params["b2"], rng)
    shares = _softmax(second @ params["w3"] + params["b3"])
    loss = float(-np.log(np.maximum(shares[rows, labels], np.float32(1e-12))).mean())

    shares[rows, labels] -= 1
    upper = shares / np.float32(len(labels))
    middle = (upper @ params["w3"].T) * second_mask
    lower = (middle @ params["w2"].T) * first_mask
    return loss, {
        "w1": images.T @ lower,
        "b1": lower.sum(axis=0),
        "w2": first.T @ middle,
        "b2": middle.sum(axis=0),
        "w3": second.T @ upper,
        "b3": upper.sum(axis=0),
    }


def adam(params: Params, grads: Params, mean: Params, square: Params, count: int, rate: float) -> None:
    """Move ``params`` along ``grads``, in place (Kingma and Ba 2015, algorithm 1).

    Args:
        params: Moved.
        grads: Used up: its arrays hold scratch values afterwards.
        mean: First moments, updated.
        square: Second moments, updated.
        count: Number of this update; the first is 1.
        rate: Step size.
    """
    pace = np.float32(rate / (1 - 0.9**count))
    scale = np.float32(1 / (1 - 0.999**count) ** 0.5)
    for name, grad in grads.items():
        _move(params[name], grad, mean[name], square[name], pace, scale)


def accuracy(params: Mapping[str, Floats], images: Floats, labels: NDArray[np.int64]) -> float:
    """Return the share of ``images`` that the model gets right, from 0 to 1; only reads ``params``."""
    first = np.maximum(images @ params["w1"] + params["b1"], 0)
    second = np.maximum(first @ params["w2"] + params["b2"], 0)
    answers = (second @ params["w3"] + params["b3"]).argmax(axis=1)
    return float((answers == labels).mean())


def _move(
    param: Floats, grad: Floats, mean: Floats, square: Floats, pace: np.float32, scale: np.float32
) -> None:
    mean *= np.float32(0.9)
    mean += np.float32(0.1) * grad
    square *= np.float32(0.999)
    np.multiply(grad, grad, out=grad)
    grad *= np.float32(0.001)
    square += grad
    np.sqrt(square, out=grad)
    grad *= scale
    grad += np.float32(1e-8)
    np.divide(mean, grad, out=grad)
    grad *= pace
    param -= grad


def _hidden(
    inputs: Floats, weights: Floats, biases: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return a layer's output under dropout, and the factor its gradient has to be multiplied by."""
    raw = inputs @ weights + biases
    mask = (rng.random(raw.shape, dtype=np.float32) < KEPT) & (raw > 0)
    factor = mask.astype(np.float32) / KEPT
    return raw * factor, factor


def _softmax(scores: Floats) -> Floats:
    scores = scores - scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores
