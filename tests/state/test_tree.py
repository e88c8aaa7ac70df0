"""A state comes back from the disk as it was, and what cannot be saved is named before anything happens."""

from __future__ import annotations

import enum
import random
import struct
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import optree
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from async_ckpt.errors import StructureMismatchError, UnsupportedLeafError
from async_ckpt.state.parse import MAX_DEPTH
from async_ckpt.state.tree import flatten, select, unflatten
from tests.state.roundtrip import exact, stored_arrays, there_and_back, through_json

Point = namedtuple("Point", "x y")  # noqa: PYI024 - both ways of making one are tested


class Moments(NamedTuple):
    first: Any
    second: Any


@dataclass
class Config:
    rate: Any
    weights: Any
    calls: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    rate: Any
    weights: Any


class Module:
    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.loaded: list[Any] = []

    def state_dict(self) -> Any:
        return self.inner

    def load_state_dict(self, state: Any) -> None:
        self.loaded.append(state)


class Halfway:
    def state_dict(self) -> dict[str, int]:
        return {}


class Registered:
    def __init__(self, left: Any, right: Any) -> None:
        self.left = left
        self.right = right


class Unnamed(Registered): ...


optree.register_pytree_node(
    Registered,
    lambda it: ((it.left, it.right), None, ("left", "right")),
    lambda _, kids: Registered(*kids),
    namespace="test-state-tree",
)
optree.register_pytree_node(
    Unnamed,
    lambda it: ((it.left, it.right), None),
    lambda _, kids: Unnamed(*kids),
    namespace="test-state-tree",
)

keys = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.binary(max_size=4)
    | st.text(st.characters(exclude_categories=()), max_size=4),
    lambda inner: st.lists(inner, max_size=2).map(tuple),
    max_leaves=3,
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda n: n * 10**60),
    st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", struct.pack(">Q", bits))[0]),
    st.sampled_from([0.0, -0.0, 5e-324, 1e16, 1e-5, 1.7976931348623157e308, float("inf"), float("-inf")]),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=()), max_size=8),
    st.binary(max_size=8),
    st.binary(max_size=8).map(bytearray),
    hnp.arrays(st.sampled_from(["f4", "i8", "u2", "?", "c8", "c16"]), ()).map(lambda a: a[()]),
)
arrays = hnp.arrays(
    st.sampled_from(
        ["?", "u1", "i1", "<u2", ">i2", "<f2", ">f4", "<i4", "<f8", ">u8", "<c8", ">c8", "<c16", ">c16"]
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
).flatmap(lambda a: st.sampled_from([a, np.asfortranarray(a), a.T, a[..., ::-1] if a.ndim else a]))
trees = st.recursive(
    plain | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_comes_back_bit_for_bit(tree: Any) -> None:
    assert exact(there_and_back(tree)) == exact(tree)


@given(trees)
def test_names_in_files_are_distinct_and_usable(tree: Any) -> None:
    flat = flatten(tree)
    places = [(leaf.group.casefold(), leaf.name) for leaf in flat.leaves]
    assert len(set(places)) == len(places)
    assert len({leaf.path for leaf in flat.leaves}) == len(places)
    assert all(leaf.name and leaf.name != "__metadata__" and leaf.name.encode() for leaf in flat.leaves)
    assert all(
        leaf.group.replace("-", "").replace(".", "").replace("_", "a").isalnum() for leaf in flat.leaves
    )


DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8", "c16"]
SMALL_FLOATS = [
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz,
]


@pytest.mark.parametrize("dtype", [*DTYPES, *(f">{d}" for d in DTYPES), *SMALL_FLOATS], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
def test_an_array_of_any_dtype_and_shape_comes_back(dtype: Any, shape: tuple[int, ...]) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = bits.reshape(-1).view(dtype).reshape(shape)
    back = there_and_back({"a": array})["a"]
    assert back.dtype == array.dtype
    assert exact(back) == exact(array)


def test_arrays_are_referenced_and_plain_values_captured() -> None:
    array, text, log = np.arange(3), "x" * 5000, bytearray(b"y" * 5000)
    state: dict[Any, Any] = {"a": array, "n": [1], "text": text, "log": log}
    flat = flatten(state)
    state["n"].append(2)
    log[:] = b""
    assert flat.leaves[0].value is array
    array[0] = 7
    back = unflatten(flat.structure, stored_arrays(flat))
    assert back["a"][0] == 7
    assert back["n"] == [1]
    assert back["log"] == bytearray(b"y" * 5000)


@pytest.mark.parametrize(
    "value", ["a" * 1025, "\udc80" * 2000, "é" * 3000, b"\x00\xff" * 800, bytearray(5000)]
)
def test_large_text_and_bytes_become_tensors(value: Any) -> None:
    flat = flatten({"model": {"vocabulary": value}})
    assert [leaf.spec.dtype for leaf in flat.leaves] == ["U8"]
    assert len(str(flat.structure)) < 200
    assert exact(there_and_back(value)) == exact(value)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Point(1, 2.5), (1, 2.5)),
        (Moments([1], None), ([1], None)),
        (Config(0.5, [1, 2]), {"rate": 0.5, "weights": [1, 2]}),
        (Frozen(0.5, (1,)), {"rate": 0.5, "weights": (1,)}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (deque([1, 2], maxlen=3), [1, 2]),
        (Module({"w": 1}), {"w": 1}),
        ([Module(Module([Module(1)]))], [[1]]),
        (OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
        ({"b": 1, "a": 2, 3: {True: 0}}, {"b": 1, "a": 2, 3: {True: 0}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_container_comes_back_as_a_plain_one(value: Any, back: Any) -> None:
    assert exact(there_and_back(value)) == exact(back)


def test_a_registered_node_comes_back_as_its_children() -> None:
    node = Registered(np.arange(2), Unnamed(1, {"z": np.arange(3)}))
    flat = flatten({"net": node}, namespace="test-state-tree")
    assert [leaf.path for leaf in flat.leaves] == ["net/left", "net/right/1/z"]
    back = there_and_back({"net": node}, namespace="test-state-tree")
    assert exact(back) == exact({"net": [np.arange(2), [1, {"z": np.arange(3)}]]})
    with pytest.raises(UnsupportedLeafError, match="Registered"):
        flatten({"net": node})


@pytest.mark.parametrize(
    "make",
    [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64],
)
def test_random_generators_go_on_where_they_stood(make: Any) -> None:
    generator, bits, old = np.random.Generator(make(3)), make(4), np.random.RandomState(make(5))
    generator.integers(0, 9, 3, dtype=np.int32)
    old.standard_normal(3)
    back = there_and_back({"rng": generator, "bits": bits, "old": old})
    assert type(back["rng"]) is np.random.Generator
    assert (
        back["rng"].integers(0, 2**31, 20, np.int32).tolist()
        == generator.integers(0, 2**31, 20, np.int32).tolist()
    )
    assert back["bits"].random_raw(5).tolist() == bits.random_raw(5).tolist()
    assert back["old"].standard_normal(5).tolist() == old.standard_normal(5).tolist()


def test_the_state_of_a_generator_is_captured_at_once() -> None:
    generator, python = np.random.default_rng(1), random.Random(2)
    python.gauss(0, 1)
    flat = flatten({"rng": generator, "python": python})
    expected = generator.random(3).tolist(), [python.gauss(0, 1) for _ in range(3)]
    back = unflatten(through_json(flat.structure), [])
    assert (back["rng"].random(3).tolist(), [back["python"].gauss(0, 1) for _ in range(3)]) == expected


def test_shared_values_are_saved_twice() -> None:
    array, items = np.arange(3), [1]
    flat = flatten({"a": array, "b": [array, items, items]})
    assert [leaf.path for leaf in flat.leaves] == ["a", "b/0"]
    back = unflatten(flat.structure, stored_arrays(flat))
    assert back["b"][1] == back["b"][2] == [1]


class Colour(enum.IntEnum):
    RED = 1


def _function() -> None: ...


STRUCTURED = np.zeros(2, [("a", "f4"), ("b", "i4")])
UNSUPPORTED = {
    "a lock": (threading.Lock(), "lock"),
    "a function": (_function, "the function _function"),
    "a lambda": (lambda: 0, "lambda"),
    "a class": (Config, "the class Config"),
    "a set": ({1}, "set"),
    "a half stateful object": (Halfway(), r"state_dict\(\) but no load_state_dict\(\)"),
    "an enumeration": (Colour.RED, "subclass of int"),
    "objects": (np.array([object()]), "dtype object"),
    "records": (STRUCTURED, "a numpy array of dtype"),
    "strings": (np.array(["a"]), "dtype <U1"),
    "dates": (np.array(["2020-01-01"], "M8[D]"), "datetime64"),
    "a date": (np.datetime64("2020-01-01"), "datetime64"),
    "a string scalar": (np.str_("a"), "numpy scalar of dtype <U1"),
    "long doubles": (np.zeros(1, np.longdouble), "longdouble|float128"),
    "a masked array": (np.ma.masked_array([1], [True]), "MaskedArray"),
    "four bits": (np.zeros(2, ml_dtypes.int4), "int4"),
    "a strange key": ({frozenset(): 1}, "a key of type builtins.frozenset"),
    "a bottomless key": ({((((((((((1,),),),),),),),),),): 1}, "a key of type builtins.tuple"),
    "a key of an own type": ({Colour.RED: 1}, "a key of type"),
    "nothing known": (object(), "an object of type builtins.object"),
    "an iterator": (iter(()), "tuple_iterator"),
}


@pytest.mark.parametrize(("value", "words"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_cannot_be_saved_is_named_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(UnsupportedLeafError, match=words) as raised:
        flatten({"fine": np.zeros(2), "model": {"layers": [{"hook": value}]}})
    assert str(raised.value.path).startswith("model/layers/0/hook")
    assert str(raised.value).startswith("model/layers/0/hook")


def test_a_foreign_bit_generator_is_refused() -> None:
    class Mine(np.random.PCG64): ...

    class Own(np.random.Generator): ...

    for value in (Mine(1), np.random.Generator(Mine(1)), Own(np.random.PCG64(1))):
        with pytest.raises(UnsupportedLeafError, match="random generator of the foreign type"):
            flatten({"rng": value})


def test_a_cycle_is_an_error_with_its_place() -> None:
    ring: dict[str, Any] = {"a": [1]}
    ring["a"].append(ring)
    with pytest.raises(UnsupportedLeafError, match="holds itself") as raised:
        flatten({"ring": ring})
    assert raised.value.path == "ring/a/1"
    own = Module(None)
    own.inner = own
    with pytest.raises(UnsupportedLeafError, match="holds itself"):
        flatten(own)


def test_a_tree_that_is_too_deep_is_an_error_and_one_that_is_just_deep_is_not() -> None:
    def nested(levels: int) -> Any:
        tree: Any = 1
        for _ in range(levels):
            tree = {"k": tree}
        return tree

    assert there_and_back(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, 5000):
        with pytest.raises(UnsupportedLeafError, match="more than 100 levels") as raised:
            flatten(nested(levels))
        assert raised.value.path == "/".join("k" * MAX_DEPTH)


def test_a_stack_that_is_nearly_full_is_no_recursion_error() -> None:
    tree: Any = 1
    for _ in range(MAX_DEPTH):
        tree = [tree]

    def deeper() -> None:
        try:
            deeper()
        except RecursionError:
            flatten(tree)

    with pytest.raises(UnsupportedLeafError, match="nested too deeply"):
        deeper()


def test_what_state_dict_raises_leaves_with_its_place() -> None:
    class Broken(Module):
        def state_dict(self) -> Any:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone") as raised:
        flatten({"model": [Broken(1)]})
    assert raised.value.__notes__ == [f"raised by state_dict() of the {Broken.__qualname__} at model/0"]


@pytest.mark.parametrize(
    ("state", "places"),
    [
        ({"model": {"w": 0}, "step": 0}, ["model:w", "state:step"]),
        ({"state": {"w": 0}, "w": 0}, ["state-2:w", "state:w"]),
        ({"state": {"w": 0}, "param_groups": [0]}, ["state:w", "param_groups:0"]),
        ([{"w": 0}], ["state:0/w"]),
        (0, ["state:~root"]),
        ({"": 0}, ["state:~"]),
        ({"__metadata__": 0}, ["state:__metadata__~"]),
        ({"a/b": {"c~d": 0}, "a_1b": [0]}, ["a_1b:c~0d", "a_1b-2:0"]),
        ({"A": [0], "a": [0], "../x": [0], ".": [0], "ü": [0]}, ["A:0", "a-2:0", "_1x:0", "group:0", "_:0"]),
        ({"k" * 300: [0], "k" * 301: [0]}, [f"{'k' * 64}:0", f"{'k' * 64}-2:0"]),
        ({1: [0], "1": [0], 1.5: 0}, ["1_int:0", "1:0", "state:1.5"]),
        ({"a": [0], "A": [0]}, ["a:0", "A-2:0"]),
        ({"\ud800": 0}, ["state:~ud800"]),
        (Module({"m": {"w": 0}, "s": 0}), ["m:w", "state:s"]),
        ({"m": Module(0), "n": Module([0])}, ["state:m", "n:0"]),
        (Config(0, [0]), ["state:rate", "weights:0"]),
        (Point([0], [0]), ["x:0", "y:0"]),
        ({0: {(1, "a"): 0, None: 0}}, ["0:(1, 'a')", "0:None"]),
    ],
    ids=str,
)
def test_groups_and_names(state: Any, places: list[str]) -> None:
    array = np.zeros(1)
    flat = flatten(_with(state, array))
    assert [f"{leaf.group}:{leaf.name}" for leaf in flat.leaves] == places


def _with(tree: Any, array: Any) -> Any:
    """The tree with arrays for zeros."""
    if isinstance(tree, dict):
        return {key: _with(child, array) for key, child in tree.items()}
    if isinstance(tree, Point):
        return Point(*(_with(child, array) for child in tree))
    if isinstance(tree, list):
        return [_with(child, array) for child in tree]
    if isinstance(tree, Module):
        return Module(_with(tree.inner, array))
    if isinstance(tree, Config):
        return Config(_with(tree.rate, array), _with(tree.weights, array))
    return array if tree == 0 else tree


TREE: dict[Any, Any] = {
    "model": {"a": np.zeros(1), "b": [np.ones(2), np.ones(3)], "n": 1},
    "opt": (np.zeros(4), 2),
    "step": 3,
    "e": {},
}


@pytest.mark.parametrize(
    ("only", "expected", "leaves"),
    [
        ("model/**", {"model": TREE["model"]}, [0, 1, 2]),
        ("model", {"model": TREE["model"]}, [0, 1, 2]),
        ("model/*", {"model": {"a": np.zeros(1), "n": 1}}, [0]),
        ("model/b/1", {"model": {"b": [None, np.ones(3)]}}, [2]),
        (["step", "opt/0"], {"opt": (np.zeros(4), None), "step": 3}, [3]),
        ("**/[01]", {"model": {"b": TREE["model"]["b"]}, "opt": TREE["opt"]}, [1, 2, 3]),
        (
            "**/[!1]",
            {
                "model": {"a": np.zeros(1), "b": [np.ones(2), None], "n": 1},
                "opt": (np.zeros(4), None),
                "e": {},
            },
            [0, 1, 3],
        ),
        ("?odel/n", {"model": {"n": 1}}, []),
        ("e", {"e": {}}, []),
        ("**", TREE, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_only_chooses_by_place(only: Any, expected: Any, leaves: list[int]) -> None:
    flat = flatten(TREE)
    arrays = stored_arrays(flat)
    assert select(flat.structure, 4, only) == leaves
    chosen = [array if i in leaves else None for i, array in enumerate(arrays)]
    assert exact(unflatten(flat.structure, chosen, only=only)) == exact(expected)


def test_a_pattern_that_chooses_nothing_is_an_error() -> None:
    flat = flatten(TREE)
    with pytest.raises(StructureMismatchError, match="'modle/\\*\\*'") as raised:
        select(flat.structure, 4, ["model/**", "modle/**"])
    assert raised.value.missing == ("modle/**",)
