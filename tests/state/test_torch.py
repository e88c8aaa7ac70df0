"""torch tensors, modules and optimizers, where torch is installed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import RestoreError, StructureMismatchError, UnsupportedLeafError
from async_ckpt.state.arena import Arena
from async_ckpt.state.into import check_restorable, plan_into
from async_ckpt.state.layout import plan
from async_ckpt.state.tree import flatten, unflatten
from tests.state.roundtrip import stage, stored_arrays, there_and_back, through_json, view

torch = pytest.importorskip("torch")

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.uint16,
    torch.int16,
    torch.uint32,
    torch.int32,
    torch.uint64,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]


def bits(tensor: Any) -> bytes:
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return bytes(plain.reshape(-1).view(torch.uint8).numpy())


def same(one: Any, other: Any) -> bool:
    return one.dtype is other.dtype and one.shape == other.shape and bits(one) == bits(other)


def restore(saved: Any, target: Any, **options: Any) -> Any:
    flat = flatten(saved)
    made = plan_into(target, through_json(flat.structure), flat.specs, **options)
    arrays = stored_arrays(flat)
    for index in made.indices:
        made.memory(index)[:] = arrays[index].reshape(-1).view(np.uint8)
    made.apply()
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 4)], ids=str)
def test_a_tensor_of_any_dtype_comes_back(dtype: Any, shape: tuple[int, ...]) -> None:
    size = torch.empty(0, dtype=dtype).element_size()
    count = int(torch.tensor(shape).prod()) if shape else 1
    tensor = torch.randint(0, 2, (count * size,), dtype=torch.uint8).view(dtype).reshape(shape)
    back = there_and_back({"t": tensor})["t"]
    assert isinstance(back, torch.Tensor)
    assert same(back, tensor)
    target = torch.zeros(shape, dtype=dtype)
    assert restore((tensor,), (target,)).in_place(0)
    assert same(target, tensor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(12.0).reshape(3, 4).t(),
        lambda: torch.arange(12, dtype=torch.bfloat16)[::3],
        lambda: torch.ones(3).expand(2, 3),
        lambda: torch.nn.Parameter(torch.ones(2)),
        lambda: torch.nn.Parameter(torch.ones(2)) * 2,
        lambda: torch.tensor([1 + 2j]).conj(),
        lambda: torch.tensor([1 + 2j]).conj().imag,
        lambda: torch.empty_permuted((2, 3, 4), (2, 0, 1)).fill_(3),
    ],
    ids=["transposed", "strided", "expanded", "parameter", "computed", "conjugated", "negated", "permuted"],
)
def test_a_tensor_that_lies_in_any_way_comes_back(make: Any) -> None:
    tensor = make()
    back = there_and_back([tensor])[0]
    assert same(back, tensor)
    assert not back.requires_grad


def test_tensors_that_lie_otherwise_are_filled() -> None:
    target = [
        torch.zeros(4, 3).t(),
        torch.zeros(6, dtype=torch.complex128)[::2],
        torch.zeros(2, dtype=torch.complex64).conj(),
    ]
    saved = [
        torch.rand(3, 4),
        torch.arange(3) * 1j + torch.zeros(3, dtype=torch.complex128),
        torch.tensor([1j, 2]),
    ]
    made = restore(saved, target)
    assert not any(made.in_place(index) for index in made.indices)
    assert all(torch.equal(one, other) for one, other in zip(saved, target, strict=True))


def test_a_parameter_is_filled_where_it_lives() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    restore({"w": torch.ones(3)}, {"w": weight})
    assert weight.requires_grad
    assert weight.tolist() == [1, 1, 1]


def test_a_tensor_and_an_array_fit_each_other() -> None:
    array, tensor = np.zeros(2, "f4"), torch.zeros(2, dtype=torch.complex128)
    restore([torch.ones(2), np.ones(2, complex)], [array, tensor])
    assert array.tolist() == [1, 1]
    assert tensor.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.ones(2, 2).to_sparse(), "layout sparse_coo"),
        (lambda: torch.ones(2, device="meta"), "meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "dtype qint8"),
        (torch.nn.UninitializedParameter, "subclass, UninitializedParameter"),
        (torch.Generator, "an object of type torch"),
    ],
    ids=["sparse", "meta", "quantized", "uninitialized", "generator"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_that_cannot_be_saved_are_named(make: Any, words: str) -> None:
    with pytest.raises(UnsupportedLeafError, match=words) as raised:
        flatten({"m": [make()]})
    assert raised.value.path == "m/0"


def test_a_view_shares_the_staged_memory_and_keeps_it() -> None:
    arena = Arena()
    flat = flatten({"t": torch.arange(4.0), "h": torch.ones(3, dtype=torch.bfloat16)})
    layout = plan(flat.specs)
    stage(flat, layout, arena.reserve(layout.total))
    tree = view(flat, layout, arena.lend())
    root = arena.lend()
    assert tree["t"].data_ptr() == root.ctypes.data + layout.offsets[0]
    kept = tree["h"][1:]
    del tree, root
    assert arena.lent()
    arena.reserve(layout.total)[:] = bytes(layout.total)
    assert kept.tolist() == [1, 1]
    del kept
    assert not arena.lent()


def test_read_only_memory_is_copied_without_a_warning() -> None:
    flat = flatten([torch.ones(3)])
    array = stored_arrays(flat)[0]
    array.flags.writeable = False
    back = unflatten(flat.structure, [array])[0]
    back += 1
    assert array.tolist() == [1, 1, 1]


def model(width: int = 3) -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1)
    )


def test_a_model_and_its_optimizer_go_on_as_if_nothing_had_happened() -> None:
    def train(net: Any, optimizer: Any, steps: int) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            net(torch.full((4, 2), float(step)) + torch.arange(8.0).reshape(4, 2)).sum().backward()
            optimizer.step()

    torch.manual_seed(1)
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, optimizer, 3)
    flat = flatten({"model": net, "optimizer": optimizer})
    arrays = [array.copy() for array in stored_arrays(flat)]
    assert {leaf.group for leaf in flat.leaves} == {"model", "optimizer"}

    other = model()
    state: dict[Any, Any] = {"model": other, "optimizer": torch.optim.Adam(other.parameters(), lr=0.5)}
    check_restorable(state)
    made = plan_into(state, through_json(flat.structure), flat.specs)
    for index in made.indices:
        made.memory(index)[:] = arrays[index].reshape(-1).view(np.uint8)
    made.apply()
    train(net, optimizer, 2)
    train(other, state["optimizer"], 2)
    assert all(same(one, two) for one, two in zip(net.parameters(), other.parameters(), strict=True))


def test_a_model_of_another_shape_is_a_mismatch_before_anything_is_touched() -> None:
    target: dict[Any, Any] = {"step": 1, "model": model(4)}
    before = {name: tensor.clone() for name, tensor in target["model"].state_dict().items()}
    flat = flatten({"step": 2, "model": torch.nn.Sequential(*model(3), torch.nn.Linear(1, 1))})
    with pytest.raises(StructureMismatchError) as raised:
        plan_into(target, flat.structure, flat.specs)
    assert "model/0.weight: saved F32 [3, 2], here F32 [4, 2]" in raised.value.different
    assert raised.value.unexpected == ("model/3.weight", "model/3.bias")
    assert target["step"] == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in target["model"].state_dict().items())


def test_a_part_of_a_model_is_restored_and_the_rest_stays() -> None:
    saved, target = model(), model()
    last = target[2].weight.clone()
    restore({"model": saved}, {"model": target}, only="model/0.*")
    assert torch.equal(target[0].weight, saved[0].weight)
    assert torch.equal(target[2].weight, last)
    smaller = torch.nn.Sequential(torch.nn.Linear(2, 3))
    restore({"model": saved}, {"model": smaller}, strict=False)
    assert torch.equal(smaller[0].weight, saved[0].weight)


def test_without_strict_a_fresh_optimizer_still_gets_all_of_its_state() -> None:
    def optimizer() -> Any:
        return torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])

    used, fresh = optimizer(), optimizer()
    used.param_groups[0]["params"][0].sum().backward()
    used.step()
    restore({"opt": used, "gone": 1}, {"opt": fresh, "new": 1}, strict=False)
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"], used.state_dict()["state"][0]["exp_avg"])


def test_an_optimizer_that_refuses_is_a_restore_error() -> None:
    net = model()
    saved = torch.optim.SGD([{"params": [p]} for p in net.parameters()], lr=0.1)
    with pytest.raises(RestoreError, match="load_state_dict"):
        restore({"opt": saved}, {"opt": torch.optim.SGD(net.parameters(), lr=0.1)})


def test_without_torch_a_tensor_comes_back_as_an_array() -> None:
    code = """if True:
        import sys
        import numpy as np
        from async_ckpt.state.tree import flatten, unflatten
        tree = ["list", ["array", 0, "torch"], ["array", 1, "torch:c128"], ["array", 2, "jax:key:rbg"]]
        half, pair, key = unflatten(tree, [np.zeros(2, "<f2"), np.ones((3, 2)), np.zeros(4, "<u4")])
        assert (half.dtype, pair.dtype, key.dtype) == (np.float16, np.complex128, np.uint32)
        assert pair.tolist() == [1 + 1j] * 3
        flatten({"a": np.zeros(2)})
        assert not {"torch", "jax", "optree"} & set(sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
