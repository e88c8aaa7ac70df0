"""States of torch and jax are taken apart the quick way too, and never other than afresh."""

from __future__ import annotations

from typing import Any

import pytest

from async_ckpt.errors import UnsupportedLeafError
from async_ckpt.state.tree import Flattener, flatten


def agree(flattener: Flattener, state: Any) -> bool:
    """Whether a state is taken apart as if for the first time."""
    found, fresh = flattener.flatten(state), flatten(state)
    return (
        found.outline.same(fresh.outline)
        and repr(found.structure) == repr(fresh.structure)
        and all(one is other for one, other in zip(found.values, fresh.values, strict=True))
    )


def test_a_module_and_its_optimizer_keep_their_outline() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    optimizer = torch.optim.Adam(net.parameters())

    def train() -> None:
        net(torch.ones(4, 2)).sum().backward()
        optimizer.step()

    train()
    flattener = Flattener()
    outline = flattener.flatten({"net": net, "optimizer": optimizer}).outline
    train()
    optimizer.param_groups[0]["lr"] = 0.5
    again = flattener.flatten({"net": net, "optimizer": optimizer})
    assert again.outline is outline
    assert '"lr"' in repr(again.structure).replace("'", '"')
    assert repr(again.structure) == repr(flatten({"net": net, "optimizer": optimizer}).structure)


@pytest.mark.parametrize(
    "other",
    [
        lambda torch: torch.zeros(3, dtype=torch.float64),
        lambda torch: torch.zeros(4),
        lambda torch: torch.zeros(1, 3),
        lambda torch: torch.nn.Parameter(torch.zeros(3)),
        lambda torch: torch.zeros(3, dtype=torch.complex64).real,
        lambda torch: torch.zeros(6)[::2],
        lambda torch: torch.zeros(3).numpy(),
    ],
)
def test_another_tensor_is_seen(other: Any) -> None:
    torch = pytest.importorskip("torch")
    flattener = Flattener()
    flattener.flatten({"w": torch.zeros(3), "n": 1})
    assert agree(flattener, {"w": other(torch), "n": 1})
    assert agree(flattener, {"w": torch.zeros(3), "n": 1})
    assert agree(flattener, {"w": torch.zeros(3), "n": other(torch)})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda torch: torch.zeros(3, device="meta"), "meta device"),
        (lambda torch: torch.zeros(3).to_sparse(), "layout sparse_coo"),
        (lambda torch: torch.zeros(3).as_subclass(type("Own", (torch.Tensor,), {})), "subclass, Own"),
    ],
)
def test_a_tensor_that_cannot_be_saved_is_seen(other: Any, words: str) -> None:
    torch = pytest.importorskip("torch")
    flattener = Flattener()
    flattener.flatten({"w": torch.zeros(3)})
    with pytest.raises(UnsupportedLeafError, match=words):
        flattener.flatten({"w": other(torch)})


def test_jax_arrays_and_keys_keep_their_outline() -> None:
    jax = pytest.importorskip("jax")

    def train(state: Any) -> Any:
        return {"half": state["half"] * 2, "key": jax.random.split(state["key"])[0], "w": state["w"] + 1}

    step = jax.jit(train)
    state = {"half": jax.numpy.ones(2, "bfloat16"), "key": jax.random.key(1), "w": jax.numpy.zeros((2, 3))}
    flattener = Flattener()
    outline = flattener.flatten(state).outline
    for _ in range(2):
        state = step(state)
        assert agree(flattener, state)
        assert flattener.flatten(state).outline is outline


def test_another_jax_array_is_seen() -> None:
    jax = pytest.importorskip("jax")
    flattener = Flattener()
    first = flattener.flatten({"w": jax.numpy.zeros(3)}).outline
    for other in (jax.numpy.zeros(4), jax.numpy.zeros(3, "int32"), jax.random.key(1)):
        assert agree(flattener, {"w": other})
        assert flattener.flatten({"w": other}).outline is not first
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        assert agree(flattener, {"w": jax.random.key(1, impl=impl)})


def test_a_jax_array_that_is_gone_is_seen() -> None:
    jax = pytest.importorskip("jax")
    flattener, array = Flattener(), jax.numpy.zeros(3)
    flattener.flatten({"w": array})
    array.delete()
    with pytest.raises(UnsupportedLeafError, match="donated or deleted"):
        flattener.flatten({"w": array})
    with pytest.raises(UnsupportedLeafError, match="tracer"):
        jax.jit(lambda w: flattener.flatten({"w": w}))(jax.numpy.zeros(3))
