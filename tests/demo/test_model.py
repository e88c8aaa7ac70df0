"""The network of the demo learns what it should: gradients, Adam and batches against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest

from async_ckpt.cli.demo import data, model
from async_ckpt.cli.demo.state import new_state, train_step


def digits(examples: int = 100) -> data.Digits:
    rng = np.random.default_rng(1)
    images = rng.random((examples, 64), dtype=np.float32)
    labels = rng.integers(0, 10, examples)
    return data.Digits(images, labels, images[:20], labels[:20])


@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2", "w3", "b3"])
def test_each_gradient_is_the_slope_of_the_loss(name: str) -> None:
    scans = digits()
    # float64 throughout, so that the difference of two losses keeps enough digits.
    params: model.Params = {
        key: value.astype(np.float64)
        for key, value in model.new_params(np.random.default_rng(0), 64, 7, 10).items()
    }

    def loss() -> float:
        # The same masks each time: the loss has to be one function of the weights.
        return model.gradients(params, scans.images, scans.labels, np.random.default_rng(5))[0]

    _, grads = model.gradients(params, scans.images, scans.labels, np.random.default_rng(5))
    place = np.unravel_index(int(np.abs(grads[name]).argmax()), grads[name].shape)
    step = 1e-5
    params[name][place] += step
    above = loss()
    params[name][place] -= 2 * step
    slope = (above - loss()) / (2 * step)
    assert slope == pytest.approx(float(grads[name][place]), rel=2e-3)


def test_adam_is_the_published_algorithm() -> None:
    rng = np.random.default_rng(2)
    params = {"w": rng.standard_normal((3, 4)).astype(np.float32)}
    expected = params["w"].astype(np.float64)
    mean, square = {"w": np.zeros((3, 4), np.float32)}, {"w": np.zeros((3, 4), np.float32)}
    m, v = np.zeros((3, 4)), np.zeros((3, 4))
    for count in range(1, 6):
        grad = rng.standard_normal((3, 4)).astype(np.float32)
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * np.square(grad.astype(np.float64))
        expected -= 0.01 * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        model.adam(params, {"w": grad}, mean, square, count, 0.01)
    np.testing.assert_allclose(params["w"], expected, rtol=1e-4)


def test_an_epoch_shows_each_example_once_and_the_next_one_in_another_order() -> None:
    rng = np.random.default_rng(3)
    position = data.start(rng, 100)
    first = np.concatenate([data.next_batch(position, rng, 20) for _ in range(5)])
    second = np.concatenate([data.next_batch(position, rng, 20) for _ in range(5)])
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)


def test_examples_that_do_not_fill_a_batch_are_left_out() -> None:
    rng = np.random.default_rng(3)
    position = data.start(rng, 50)
    batches = [data.next_batch(position, rng, 20) for _ in range(6)]
    assert [len(batch) for batch in batches] == [20] * 6
    assert position["offset"] == 40


def test_a_batch_is_not_changed_by_the_next_shuffle() -> None:
    rng = np.random.default_rng(3)
    position = data.start(rng, 20)
    batch = data.next_batch(position, rng, 20)
    before = batch.copy()
    data.next_batch(position, rng, 20)
    np.testing.assert_array_equal(batch, before)


def test_two_runs_of_one_seed_are_the_same_bytes() -> None:
    scans = digits()
    runs = [new_state(scans, hidden=8, seed=4) for _ in range(2)]
    losses = [[train_step(state, scans, 1e-3) for _ in range(10)] for state in runs]
    assert losses[0] == losses[1]
    for name, value in runs[0]["model"].items():
        assert value.tobytes() == runs[1]["model"][name].tobytes()


def test_training_changes_the_arrays_in_place() -> None:
    scans = digits()
    state = new_state(scans, hidden=8)
    arrays = [*state["model"].values(), *state["optimizer"]["mean"].values(), state["data"]["order"]]
    train_step(state, scans, 1e-3)
    after = [*state["model"].values(), *state["optimizer"]["mean"].values(), state["data"]["order"]]
    assert all(one is other for one, other in zip(arrays, after, strict=True))


def test_accuracy_counts_right_answers() -> None:
    params = {
        "w1": np.eye(2, dtype=np.float32),
        "b1": np.zeros(2, np.float32),
        "w2": np.eye(2, dtype=np.float32),
        "b2": np.zeros(2, np.float32),
        "w3": np.eye(2, dtype=np.float32),
        "b3": np.zeros(2, np.float32),
    }
    images = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    assert model.accuracy(params, images, np.array([0, 1, 1, 1])) == 0.75


def test_the_split_is_disjoint_and_complete() -> None:
    pytest.importorskip("sklearn")
    scans = data.load()
    assert scans.images.shape == (1437, 64)
    assert scans.held_images.shape == (360, 64)
    assert scans.images.dtype == np.float32
    assert 0 <= scans.images.min() < scans.images.max() == 1
    assert np.bincount(np.concatenate([scans.labels, scans.held_labels])).sum() == 1797
