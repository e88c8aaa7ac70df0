"""A tensor that was changed under the copy is found, whatever it is made of, and no other is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from async_ckpt.state import copying, validating
from async_ckpt.state.copying import Copier
from async_ckpt.state.layout import Layout, plan
from async_ckpt.state.placing import Placing, place
from async_ckpt.state.tree import flatten
from async_ckpt.state.validating import changed


class Staged:
    """A state, copied to where it belongs as the saver does it."""

    def __init__(self, state: Any, *, streamed: frozenset[str] = frozenset()) -> None:
        self.flat = flatten(state)
        self.layout: Layout = plan(self.flat.specs)
        constant = [path in streamed for path in self.flat.outline.paths]
        self.placing: Placing = place(self.layout, constant)
        self.copier = Copier(self.flat.outline.specs, self.flat.values, self.flat.outline.paths)
        self.memory = np.full(self.placing.nbytes, 0xAA, np.uint8)
        for at, file in zip(self.placing.images, self.layout.files, strict=True):
            if at is not None:
                self.copier.copy(file, 0, file.size, self.memory[at : at + file.size])
            for placed in file.tensors:
                start = self.placing.stash.get(placed.index)
                if start is not None:
                    self.copier.copy_leaf(placed, self.memory[start : start + placed.nbytes])

    def changed(self) -> list[str]:
        indices = changed(self.layout, self.placing, self.copier, self.memory)
        assert indices == sorted(set(indices))
        return [self.flat.outline.paths[index] for index in indices]


@pytest.fixture(params=[16 * 2**20, 4096], ids=["large chunks", "small chunks"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "CHUNK", request.param)
    monkeypatch.setattr(validating, "CHUNK", request.param)


pytestmark = pytest.mark.usefixtures("_chunks")


def assign(value: Any) -> Callable[[Any], None]:
    def change(array: Any) -> None:
        array[(-1,) * array.ndim] = value

    return change


ARRAYS: dict[str, Any] = {
    "float": np.arange(5000, dtype="<f4").reshape(50, 100),
    "nan": np.full(3000, np.nan),
    "big-endian": np.arange(5000, dtype=">f8").reshape(50, 100),
    "big-endian scalar": np.array(5.5, ">f8"),
    "complex": np.arange(2000) * (1 + 2j),
    "big-endian complex": (np.arange(2000) * 1j).astype(">c16"),
    "transposed": np.arange(5000, dtype="<i4").reshape(50, 100).T,
    "every other": np.arange(9001, dtype="u1")[::2],
    "backwards": np.arange(4097, dtype="<u2")[::-1],
    "bfloat16": np.arange(777).astype(ml_dtypes.bfloat16),
    "flags": np.zeros(4097, bool),
    "one": np.array(7),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_changed_array_is_named_and_its_neighbours_are_not(name: str) -> None:
    state = {"model": {key: array.copy(order="K") for key, array in ARRAYS.items()}, "text": "t" * 5000}
    staged = Staged(state)
    assert staged.changed() == []
    assign(1)(state["model"][name])  # type: ignore[index]
    assert staged.changed() == [f"model/{name}"]


def test_several_changes_are_all_named_in_order() -> None:
    x, b = np.zeros(10_000), np.zeros(10_000, "<i2")
    staged = Staged({"a": {"x": x, "y": np.zeros(3)}, "b": [b]})
    b[0] = 1
    x[9_999] = 1
    x[0] = 1
    assert staged.changed() == ["a/x", "b/0"]


def test_nan_equals_itself_and_bits_are_what_counts() -> None:
    array = np.array([np.nan, 0.0, 1.0])
    staged = Staged([array])
    array[0] = np.nan
    assert staged.changed() == []
    array[1] = -0.0
    assert staged.changed() == ["0"]


def test_a_change_of_a_single_bit_anywhere_is_seen() -> None:
    array = np.zeros(10_007, "u1")
    staged = Staged([np.zeros(3, "u1"), array])
    for at in (0, 4090, 4096, 5000, 10_000, 10_006):
        array[at] = 0x80
        assert staged.changed() == ["1"], at
        array[at] = 0
    assert staged.changed() == []


def test_an_array_with_another_shape_or_dtype_has_changed() -> None:
    state = {"a": np.zeros(4000), "b": np.zeros(4000), "c": np.ones(7)}
    staged = Staged(state)
    state["a"].shape = (2, 2000)
    assert staged.changed() == ["a"]
    setattr(state["b"], "dtype", np.dtype("<i8"))  # noqa: B010 - no type checker lets it be assigned
    assert staged.changed() == ["a", "b"]


def test_what_waits_beside_a_file_made_in_the_window_is_looked_at() -> None:
    state = {
        "frozen": np.ones(300_000, "<f8"),
        "w": np.arange(5000, dtype="<f4"),
        "t": np.arange(6000, dtype="<f4").reshape(60, 100).T,
        "s": np.array(1.0, ">f8"),
    }
    staged = Staged(state, streamed=frozenset({"frozen"}))
    assert staged.placing.images == (None,)
    assert staged.changed() == []
    for name in ("w", "t", "s"):
        before = state[name].copy()
        assign(-1)(state[name])
        assert staged.changed() == [name]
        state[name][...] = before
    state["frozen"][0] = 2
    assert staged.changed() == [], "it was promised never to change, and nothing of it is in memory"


def test_an_empty_state_and_empty_arrays_never_change() -> None:
    assert Staged({}).changed() == []
    assert Staged({"a": np.zeros((0, 3)), "n": 5}).changed() == []


def test_torch_tensors_are_compared_where_they_are() -> None:
    torch = pytest.importorskip("torch")
    state = {
        "w": torch.zeros(100, 60),
        "b": torch.zeros(9000, dtype=torch.bfloat16),
        "t": torch.zeros(60, 90).T,
        "c": torch.zeros(3000, dtype=torch.complex128),
        "p": torch.nn.Parameter(torch.full((3000,), float("nan"))),
    }
    for name, tensor in state.items():
        staged = Staged(state)
        assert staged.changed() == []
        with torch.no_grad():
            tensor[(-1,) * tensor.ndim] = 2
        assert staged.changed() == [name]
    staged = Staged(state)
    state["w"].data = torch.zeros(3)
    state["b"].data = torch.zeros(9000, dtype=torch.float16)
    assert staged.changed() == ["w", "b"]


def test_jax_arrays_never_change() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        state = {
            "w": jax.numpy.arange(9000.0),
            "c": jax.numpy.ones(3000, "complex128"),
            "k": jax.random.key(3),
        }
        staged = Staged(state)
        assert staged.changed() == []
        state["w"].delete()
        assert staged.changed() == ["w"], "what is gone cannot be vouched for"
