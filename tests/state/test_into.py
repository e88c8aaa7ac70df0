"""Restoring in place: all of it where it stands, or nothing is touched and every reason is given."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.errors import (
    DamagedCheckpointError,
    RestoreError,
    StructureMismatchError,
    UnsupportedLeafError,
)
from async_ckpt.state.into import check_restorable, plan_into
from async_ckpt.state.layout import TensorSpec
from async_ckpt.state.tree import flatten
from tests.state.roundtrip import exact, stored_arrays, through_json
from tests.state.test_tree import Config, Frozen, Module, Point, trees


def restore(saved: Any, target: Any, **options: Any) -> Any:
    """Save one state and restore another from it; gives the plan."""
    flat = flatten(saved)
    made = plan_into(target, through_json(flat.structure), flat.specs, **options)
    arrays = stored_arrays(flat)
    for index in made.indices:
        made.memory(index)[:] = arrays[index].reshape(-1).view(np.uint8)
    made.apply()
    return made


def test_arrays_are_read_straight_into_where_they_live() -> None:
    w, inner = np.zeros((2, 3), "f4"), np.zeros(())
    target: dict[Any, Any] = {"model": {"w": w}, "pair": (inner, [np.zeros(0)])}
    made = restore({"model": {"w": np.full((2, 3), 5, "f4")}, "pair": (np.array(2.5), [np.zeros(0)])}, target)
    assert target["model"]["w"] is w
    assert (w == 5).all()
    assert inner == 2.5
    assert made.indices == (0, 1, 2)
    assert all(made.in_place(index) for index in made.indices)


@pytest.mark.parametrize(
    "target",
    [
        np.asfortranarray(np.zeros((3, 4))),
        np.zeros((6, 8))[::2, ::2],
        np.zeros((3, 4), ">f8"),
        np.zeros((4, 3)).T[:, ::-1],
    ],
    ids=["fortran", "strided", "big-endian", "reversed"],
)
def test_arrays_that_lie_otherwise_are_filled_as_well(target: np.ndarray) -> None:
    saved = np.random.default_rng(1).random((3, 4))
    made = restore((saved,), (target,))
    assert not made.in_place(0)
    assert (target == saved).all()


def test_a_complex_array_and_a_big_endian_save_are_filled() -> None:
    target = [np.zeros(3, complex), np.zeros(2, "<i4"), np.zeros((2, 2), ">c16")[:, ::-1]]
    saved = [np.arange(3) * 1j, np.array([1, 2], ">i4"), np.ones((2, 2), complex) * 2j]
    restore(saved, target)
    assert exact(target[0]) == exact(saved[0])
    assert target[1].tolist() == [1, 2]
    assert (target[2] == 2j).all()


def test_plain_values_are_set_in_what_can_be_changed_whatever_their_type_was() -> None:
    config = Config(0.1, [1, 2])
    target: dict[Any, Any] = {
        "step": None,
        3: "a",
        "list": [1, 2.5],
        "config": config,
        "np": np.float32(1),
        "b": b"",
    }
    items = target["list"]
    restore(
        {
            "step": 7,
            3: 1.5,
            "list": [None, True],
            "config": Config(float("nan"), [b"x", 2**90]),
            "np": 3,
            "b": "b" * 3000,
        },
        target,
    )
    assert target["list"] is items
    assert target["config"] is config
    assert config.rate != config.rate
    assert config.weights == [b"x", 2**90]
    assert exact({key: target[key] for key in ("step", 3, "list", "np", "b")}) == exact(
        {"step": 7, 3: 1.5, "list": [None, True], "np": 3, "b": "b" * 3000}
    )


def test_mappings_of_other_types_fit_each_other() -> None:
    target: dict[Any, Any] = {"a": OrderedDict(x=1, y=2), "b": defaultdict(int, z=1), "c": deque([1, 2])}
    kinds = [type(value) for value in target.values()]
    restore({"a": {"y": 20, "x": 10}, "b": {"z": 30}, "c": [40, 50]}, target)
    assert [type(value) for value in target.values()] == kinds
    assert (dict(target["a"]), dict(target["b"]), list(target["c"])) == (
        {"x": 10, "y": 20},
        {"z": 30},
        [40, 50],
    )


def test_generators_are_set_where_they_live() -> None:
    saved: dict[Any, Any] = {
        "rng": np.random.default_rng(1),
        "old": np.random.RandomState(2),
        "bits": (np.random.Philox(3),),
    }
    target: dict[Any, Any] = {
        "rng": np.random.default_rng(9),
        "old": np.random.RandomState(9),
        "bits": (np.random.Philox(9),),
    }
    live = (target["rng"], target["old"])
    flat = flatten(saved)
    expected = saved["rng"].random(), saved["old"].randn(), saved["bits"][0].random_raw()
    plan_into(target, through_json(flat.structure), flat.specs).apply()
    assert (target["rng"], target["old"]) == live
    assert (target["rng"].random(), target["old"].randn(), target["bits"][0].random_raw()) == expected


def test_an_array_that_cannot_be_written_to_is_replaced() -> None:
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    target: dict[Any, Any] = {"a": frozen}
    restore({"a": np.ones(3)}, target)
    assert target["a"].tolist() == [1, 1, 1]
    assert frozen.tolist() == [0, 0, 0]


def snapshot(value: Any) -> Any:
    return exact(copy.deepcopy(value))


def mismatch(saved: Any, target: Any, **options: Any) -> StructureMismatchError:
    flat = flatten(saved)
    before = snapshot(target)
    with pytest.raises(StructureMismatchError) as raised:
        plan_into(target, through_json(flat.structure), flat.specs, **options)
    assert snapshot(target) == before
    return raised.value


def test_every_mismatch_is_listed_at_once_and_nothing_is_touched() -> None:
    saved: dict[Any, Any] = {
        "w": np.ones((2, 3), "f4"),
        "b": np.ones(3),
        "k": {"x": 1, "y": np.ones(2)},
        "l": [1, 2, 3],
        "n": 1,
        "same": np.ones(4),
        "gone": {"deep": [1, np.ones(1)], "empty": {}},
        "t": (1,),
        "rng": np.random.default_rng(1),
    }
    target: dict[Any, Any] = {
        "w": np.zeros((3, 2), "f4"),
        "b": np.zeros(3, "f4"),
        "k": np.zeros(1),
        "l": [1, 2],
        "n": [1],
        "same": np.zeros(4),
        "new": {"deep": (1, {"a": np.zeros(1)}), "empty": []},
        "t": [1],
        "rng": 5,
    }
    for side, value in ((saved, 2), (target, 1)):
        side |= {"fits": value, "also": Config(value, [value]), "list": [value]}
    error = mismatch(saved, target)
    assert error.unexpected == ("gone/deep/0", "gone/deep/1", "gone/empty")
    assert error.missing == ("new/deep/0", "new/deep/1/a", "new/empty")
    assert error.different == (
        "w: saved F32 [2, 3], here F32 [3, 2]",
        "b: saved F64 [3], here F32 [3]",
        "k: saved a dict, here F64 [1]",
        "l: saved 3 items, here 2 items",
        "n: saved a int, here a list",
        "t: saved a tuple, here a list",
        "rng: saved a Generator/PCG64, here a int",
    )
    assert "missing in the checkpoint: new/deep/0" in str(error)


def test_a_long_list_of_mismatches_is_cut_in_the_message_only() -> None:
    error = mismatch({str(i): i for i in range(30)}, {})
    assert len(error.unexpected) == 30
    assert "and 22 more" in str(error)


@pytest.mark.parametrize(
    ("saved", "target", "words"),
    [
        (
            np.random.default_rng(1),
            np.random.RandomState(1),
            "saved a Generator/PCG64, here RandomState/MT19937",
        ),
        (np.random.default_rng(1), np.random.Generator(np.random.SFC64(1)), "here Generator/SFC64"),
        (np.ones(2), "text", "saved F64 \\[2\\], here a str"),
        ("x" * 5000, np.zeros(5000, "u1"), "saved a str, here U8"),
        (1, np.ones(2), "saved a int, here F64"),
        (np.ones(2), print, "here a builtin_function"),
        ({"a": 1}, [1], "saved a dict, here a list"),
        (Point(1, 2), (1, 2), "saved a Point, here a tuple"),
        (np.zeros((2, 2)), np.zeros(2, complex), "saved F64 \\[2, 2\\], here F64 \\[2, 2\\]|here numpy:c128"),
        (np.zeros(2), np.zeros(2, "M8[s]"), "here a numpy array of dtype datetime64"),
        (np.zeros(2), np.random.Generator(type("Mine", (np.random.PCG64,), {})(1)), "foreign type"),
    ],
)
def test_kinds_that_do_not_fit_are_named_on_both_sides(saved: Any, target: Any, words: str) -> None:
    flat = flatten([saved])
    with pytest.raises(StructureMismatchError, match=words):
        plan_into([target], through_json(flat.structure), flat.specs)


def test_an_empty_dict_does_not_swallow_a_checkpoint() -> None:
    assert mismatch({"a": {"b": 1}}, {}).unexpected == ("a/b",)
    assert mismatch({"a": {"b": 1}}, {"a": {}}).unexpected == ("a/b",)
    assert mismatch({"a": {}}, {"a": {"b": 1}}).missing == ("a/b",)


def test_keys_of_other_types_are_other_keys() -> None:
    error = mismatch({1: 0, "2": 0}, {True: 0, 2: 0})
    assert (error.unexpected, error.missing) == (("1", "2"), ("True", "2"))


def test_without_strict_only_the_common_part_is_filled() -> None:
    target: dict[Any, Any] = {"a": 1, "k": {"x": 1, "new": 2}, "own": np.zeros(2)}
    restore({"a": 10, "k": {"x": 11, "old": 12}, "gone": np.ones(2)}, target, strict=False)
    assert exact(target) == exact({"a": 10, "k": {"x": 11, "new": 2}, "own": np.zeros(2)})
    assert mismatch({"l": [1, 2], "w": np.ones(2)}, {"l": [1], "w": np.ones(3)}, strict=False).different == (
        "l: saved 2 items, here 1 items",
        "w: saved F64 [2], here F64 [3]",
    )


def test_only_leaves_the_rest_alone_even_if_it_does_not_fit() -> None:
    target: dict[Any, Any] = {
        "model": {"w": np.zeros(2), "n": 0, "l": [0, 0]},
        "opt": np.zeros(5),
        "other": 1,
    }
    saved: dict[Any, Any] = {"model": {"w": np.ones(2), "n": 1, "l": [1, 1]}, "opt": np.ones(3), "gone": 2}
    made = restore(saved, target, only="model/**")
    assert made.indices == (0,)
    assert exact(target) == exact(
        {"model": {"w": np.ones(2), "n": 1, "l": [1, 1]}, "opt": np.zeros(5), "other": 1}
    )
    restore({"model": {"w": np.zeros(2), "n": 2, "l": [2, 2]}}, target, only=["model/n", "model/l/1"])
    assert exact(target["model"]) == exact({"w": np.ones(2), "n": 2, "l": [1, 2]})


def test_only_still_lists_what_it_chose_and_does_not_fit() -> None:
    error = mismatch({"m": {"w": 1, "old": 1}, "x": 1}, {"m": {"w": 1, "new": 1}, "y": 1}, only="m/**")
    assert (error.unexpected, error.missing) == (("m/old",), ("m/new",))
    assert mismatch({"m": 1}, {"m": 1}, only="n/**").missing == ("n/**",)


@dataclass
class Trainer:
    model: Module
    n: int


def test_stateful_objects_get_their_part_last() -> None:
    order: list[str] = []

    class Late(Module):
        def load_state_dict(self, state: Any) -> None:
            order.append(f"load after {target['z']} {target['a'][0]}")
            super().load_state_dict(state)

    late = Late({"different": "altogether"})
    target: dict[Any, Any] = {"late": late, "a": np.zeros(1), "z": 0, "trainer": Trainer(Module(None), 0)}
    restore(
        {
            "late": Module({"w": np.ones(2), "l": (1, "x" * 2000)}),
            "a": np.ones(1),
            "z": 5,
            "trainer": Trainer(Module([3]), 4),
        },
        target,
    )
    assert order == ["load after 5 1.0"]
    assert exact(late.loaded) == exact([{"w": np.ones(2), "l": (1, "x" * 2000)}])
    assert target["trainer"].model.loaded == [[3]]
    assert target["trainer"].n == 4


def test_a_state_dict_saved_by_hand_fits_the_object_and_the_other_way_round() -> None:
    model = Module({"w": np.zeros(2)})
    restore({"model": {"w": np.ones(2)}}, {"model": model})
    assert exact(model.loaded) == exact([{"w": np.ones(2)}])
    target: dict[Any, Any] = {"model": {"w": np.zeros(2)}}
    restore({"model": Module({"w": np.ones(2)})}, target)
    assert exact(target) == exact({"model": {"w": np.ones(2)}})


def test_a_part_of_a_stateful_object_is_laid_over_what_it_has() -> None:
    model = Module({"a": np.zeros(2), "l": [0, (0, 0)], "own": 0})
    restore({"m": Module({"a": np.ones(2), "l": [1, (1, 1)], "b": 1})}, {"m": model}, only=["m/a", "m/l/1/0"])
    assert exact(model.loaded) == exact([{"a": np.ones(2), "l": [0, (1, 0)], "own": 0}])
    assert exact(model.inner) == exact({"a": np.zeros(2), "l": [0, (0, 0)], "own": 0})


def test_a_load_state_dict_that_refuses_is_a_restore_error_with_its_cause() -> None:
    class Picky(Module):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("w")

    with pytest.raises(RestoreError, match=r"m/0: load_state_dict\(\) refused") as raised:
        restore({"m": [Module(1)]}, {"m": [Picky(1)]})
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize("target", [(1, np.zeros(1)), Point(1, np.zeros(1)), Frozen(1, np.zeros(1))])
def test_a_value_that_cannot_be_replaced_may_stay_as_it_is_but_not_change(target: Any) -> None:
    kind = type(target)
    restore(kind(1, np.ones(1)) if kind is not tuple else (1, np.ones(1)), target)
    assert (target[1] if isinstance(target, tuple) else target.weights)[0] == 1
    changed = kind(2, np.ones(1)) if kind is not tuple else (2, np.ones(1))
    flat = flatten({"x": changed})
    with pytest.raises(StructureMismatchError, match="cannot be replaced where it stands"):
        plan_into({"x": target}, flat.structure, flat.specs)
    flat = flatten(("x" * 5000, np.ones(1)))
    with pytest.raises(StructureMismatchError, match="cannot be replaced"):
        plan_into(("y", np.ones(1)), flat.structure, flat.specs)


def test_a_read_only_array_in_a_tuple_does_not_fit() -> None:
    frozen = np.zeros(1)
    frozen.flags.writeable = False
    assert "neither written to nor replaced" in mismatch((np.ones(1),), (frozen,)).different[0]


@pytest.mark.parametrize(
    ("leaf", "spec"),
    [
        (["array", 0, "pickle"], TensorSpec("m", "w", "F32", (2,), 8)),
        (["array", 0, "str"], TensorSpec("m", "w", "F32", (2,), 8)),
        (["array", 0, "numpy"], TensorSpec("m", "w", "F4", (2,), 1)),
        (["array", 0, "numpy"], TensorSpec("m", "w", "F32", (-2,), 8)),
        (["array", 1, "numpy"], TensorSpec("m", "w", "F32", (2,), 8)),
        ("x", TensorSpec("m", "w", "F32", (2,), 8)),
    ],
)
@pytest.mark.parametrize("target", [np.zeros(2, "f4"), Module(1), "text"], ids=["array", "stateful", "text"])
def test_a_checkpoint_that_contradicts_itself_is_damaged(leaf: Any, spec: TensorSpec, target: Any) -> None:
    with pytest.raises(DamagedCheckpointError):
        plan_into({"w": target}, ["dict", "w", leaf], [spec])


class Pair:
    def __init__(self, left: Any, right: Any) -> None:
        self.left = left
        self.right = right


optree.register_pytree_node(
    Pair,
    lambda it: ((it.left, it.right), None, ("left", "right")),
    lambda _, kids: Pair(*kids),
    namespace="test-into",
)


def test_arrays_in_registered_nodes_are_filled() -> None:
    target = Pair(np.zeros(1), {"n": 1})
    flat = flatten({"p": Pair(np.ones(1), {"n": 2})}, namespace="test-into")
    made = plan_into({"p": target}, flat.structure, flat.specs, namespace="test-into")
    made.memory(0)[:] = np.ones(1).view(np.uint8)
    made.apply()
    assert (target.left[0], target.right) == (1, {"n": 2})


@given(trees, st.integers(0, 3))
def test_a_state_restored_into_a_blank_copy_of_itself_is_that_state(tree: Any, seed: int) -> None:
    saved, target = {"root": tree}, {"root": blank(copy.deepcopy(tree))}
    try:
        check_restorable(target)
    except UnsupportedLeafError:
        return
    restore(saved, target)
    assert exact(target) == exact(saved)


def blank(tree: Any) -> Any:
    """The same tree with zeros in its arrays and None for its plain values."""
    if isinstance(tree, np.ndarray):
        tree[...] = 0
        return tree
    if isinstance(tree, dict):
        return type(tree)((key, blank(child)) for key, child in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree)(blank(child) for child in tree)
    return None


def writeable(flag: bool) -> np.ndarray:
    array = np.zeros(1)
    array.flags.writeable = flag
    return array


RESTORABLE: dict[str, Callable[[], Any]] = {
    "plain values in a dict": lambda: {"a": 1, "b": [None, "x"]},
    "arrays anywhere": lambda: (writeable(True), Frozen(writeable(True), {"n": 1})),
    "a read-only array in a dict": lambda: {"a": writeable(False)},
    "a dataclass": lambda: Config(1.0, []),
    "generators anywhere": lambda: (np.random.default_rng(1), np.random.RandomState(1)),
    "stateful objects anywhere": lambda: (Module((1, 2)), Frozen(Module(1), ())),
    "empty tuples": lambda: {"a": ()},
    "an array at the root": lambda: writeable(True),
}
UNRESTORABLE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a number in a tuple": (lambda: {"a": (writeable(True), 3)}, "a/1", "a int in a tuple"),
    "None in a tuple": (lambda: [(None,)], "0/0", "NoneType in a tuple"),
    "a number in a named tuple": (lambda: {"p": Point(1, writeable(True))}, "p/x", "a int in a Point"),
    "a number in a frozen dataclass": (lambda: {"c": Frozen(1, 2)}, "c/rate", "a int in a Frozen"),
    "a scalar in a tuple": (lambda: (np.float32(1),), "0", "a float32 in a tuple"),
    "a read-only array in a tuple": (lambda: {"a": (writeable(False),)}, "a/0", "cannot be written to"),
    "a number alone": (lambda: 5, "", "at the root"),
    "a lock": (lambda: {"a": [object()]}, "a/0", "cannot save an object"),
    "objects": (lambda: {"a": np.array([None])}, "a", "dtype object"),
}


@pytest.mark.parametrize("make", RESTORABLE.values(), ids=RESTORABLE)
def test_a_state_that_can_be_restored_in_place_is_found_so(make: Callable[[], Any]) -> None:
    check_restorable(make())


@pytest.mark.parametrize(("make", "path", "words"), UNRESTORABLE.values(), ids=UNRESTORABLE)
def test_what_could_not_be_restored_in_place_is_named(make: Callable[[], Any], path: str, words: str) -> None:
    with pytest.raises(UnsupportedLeafError, match=words) as raised:
        check_restorable(make())
    assert raised.value.path == path


def test_a_cycle_or_a_bottomless_tree_is_not_followed() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(UnsupportedLeafError, match="holds itself") as raised:
        check_restorable({"r": ring})
    assert raised.value.path == "r/0"
    assert mismatch({"a": 1}, {"a": 1, "ring": [1]}).missing == ("ring/0",)
    flat = flatten({"a": 1})
    with pytest.raises(StructureMismatchError):
        plan_into({"a": 1, "ring": ring}, flat.structure, flat.specs)
