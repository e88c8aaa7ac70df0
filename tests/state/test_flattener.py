"""Whatever a state looked like before, taking it apart again gives what taking it apart afresh gives."""

from __future__ import annotations

import copy
import gc
import random
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from async_ckpt.errors import UnsupportedLeafError
from async_ckpt.state.route import CHUNK
from async_ckpt.state.tree import Flat, Flattener, flatten
from tests.state.test_tree import keys, plain

SPACE = "test-state-flattener"
Pair = namedtuple("Pair", "x y")  # noqa: PYI024 - the plain way of making one


@dataclass
class Config:
    x: Any
    y: Any


class Net:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


class Bag(dict[Any, Any]): ...


class Row(list[Any]): ...


optree.register_pytree_node(
    Net, lambda it: ((it.x, it.y), None, ("x", "y")), lambda _, kids: Net(*kids), namespace=SPACE
)

asked: list[int] = []


class Module:
    """Has a state, and notes each time it is asked for it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def state_dict(self) -> Any:
        asked.append(id(self))
        if isinstance(self.inner, type):
            raise self.inner("gone")
        return self.inner

    def load_state_dict(self, state: Any) -> None: ...


arrays = hnp.arrays(st.sampled_from(["<f4", ">f4", "<c16", "?"]), hnp.array_shapes(min_dims=0, max_side=2))
texts = st.sampled_from(["x" * 1024, "x" * 1025, "é" * 1025, b"y" * 1025, bytearray(b"y" * 1026)])
generators = st.integers(0, 3).map(np.random.default_rng) | st.integers(0, 3).map(random.Random)
wrong = st.builds(object) | st.just({1, 2}) | st.builds(lambda: Module(KeyError))
leaves = plain | arrays | arrays | texts | generators
many_keys = keys | st.sampled_from([0, 1, True, 1.0, 0.0, -0.0, "a", "b", (0.0,), (-0.0,), (1,), (True,)])


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    table = st.dictionaries(many_keys, inner, max_size=4)
    row = st.lists(inner, max_size=4)
    return st.one_of(
        table,
        table.map(OrderedDict),
        table.map(lambda items: defaultdict(list, items)),
        table.map(Bag),
        row,
        row.map(tuple),
        row.map(deque),
        row.map(Row),
        *(st.builds(made, inner, inner) for made in (Pair, Config, Net)),
        inner.map(Module),
    )


trees = st.recursive(leaves, containers, max_leaves=8)


def children(tree: Any) -> list[Any]:
    """What can be set in a container: keys, indices or names."""
    if isinstance(tree, dict):
        return list(tree)
    if isinstance(tree, list | deque):
        return list(range(len(tree)))
    if isinstance(tree, Config | Net):
        return ["x", "y"]
    return ["inner"] if isinstance(tree, Module) and not isinstance(tree.inner, type) else []


def child(tree: Any, slot: Any) -> Any:
    return getattr(tree, slot) if isinstance(tree, Config | Net | Module) else tree[slot]


def put(tree: Any, slot: Any, value: Any) -> None:
    if isinstance(tree, Config | Net | Module):
        setattr(tree, slot, value)
    else:
        tree[slot] = value


def twin(key: Any) -> Any:
    """Another key that equals this one, if there is such."""
    if isinstance(key, tuple):
        return tuple(map(twin, key))
    return -key if key == 0 and type(key) is float else (1 if key is True else True) if key == 1 else key


def like(tree: Any) -> Any:
    """Something much the same: new values of the same kind, or the same items in another container."""
    if isinstance(tree, np.ndarray):
        return st.sampled_from([np.zeros_like(tree), tree.copy(), tree[None], np.zeros(tree.shape)])
    if isinstance(tree, dict):
        turned = dict(reversed(tree.items()))
        retyped = {twin(key): value for key, value in tree.items()}
        return st.sampled_from(
            [turned, retyped, dict(tree), OrderedDict(tree), Bag(tree), list(tree.items())]
        )
    if isinstance(tree, list | tuple | deque):
        return st.sampled_from([list(tree), tuple(tree), deque(tree), [*tree, 0], list(tree)[1:]])
    if isinstance(tree, Config | Net):
        return st.sampled_from([Config(tree.x, tree.y), Net(tree.x, tree.y), Pair(tree.y, tree.x)])
    return plain | st.just(Module(tree))


def nodes(tree: Any) -> list[Any]:
    """Everything in a tree, also where it holds itself."""
    found: dict[int, Any] = {}
    todo = [tree]
    while todo:
        node = todo.pop()
        if id(node) not in found:
            found[id(node)] = node
            todo += [child(node, slot) for slot in children(node)]
            todo += node if isinstance(node, tuple) else ()
    return list(found.values())


def changed(draw: Any, tree: Any) -> Any:
    """The tree with one place changed."""
    spots = [(None, None), *((node, slot) for node in nodes(tree) for slot in children(node))]
    node, slot = draw(st.sampled_from(spots))
    old = tree if node is None else child(node, slot)
    new = draw(st.one_of(like(old), like(old), trees, wrong, st.just(tree)))
    if node is None:
        return new
    put(node, slot, new)
    return tree


def outcome(take: Callable[[Any], Flat], tree: Any) -> tuple[Any, ...]:
    """All that can be seen of a flattening, so that equal means the same to the last type."""
    asked.clear()
    try:
        flat = take(tree)
    except (UnsupportedLeafError, KeyError) as error:
        # What stands behind the place of the error may have been asked already.
        return type(error), str(error), getattr(error, "path", None), getattr(error, "__notes__", [])
    outline = flat.outline
    return (
        repr(flat.structure),
        repr(flat.holes),
        [id(value) if isinstance(value, np.ndarray) else (type(value), value) for value in flat.values],
        outline.paths,
        outline.groups,
        outline.names,
        outline.specs,
        outline.tensors,
        outline.skeleton.pieces,
        Counter(asked),
    )


def afresh(tree: Any) -> Flat:
    return flatten(tree, namespace=SPACE)


@settings(max_examples=100)
@given(trees, st.data())
def test_a_state_that_changed_in_any_way_is_taken_apart_as_if_for_the_first_time(
    tree: Any, data: st.DataObject
) -> None:
    flattener = Flattener(SPACE)
    assert outcome(flattener.flatten, tree) == outcome(afresh, tree)
    for _ in range(4):
        tree = changed(data.draw, tree)
        assert outcome(flattener.flatten, tree) == outcome(afresh, tree)


class Stateless:
    """Has a state only as long as it is told to."""

    load_state_dict: Any = id

    def state_dict(self) -> Any:
        return {"w": np.zeros(1)}


ONE = np.zeros(1)
TWINS: dict[str, tuple[Any, Any]] = {
    "another key": ({"a": ONE}, {"b": ONE}),
    "a key of another type": ({1: ONE}, {True: ONE}),
    "minus zero": ({0.0: ONE}, {-0.0: ONE}),
    "a tuple with another type": ({(1,): ONE}, {(True,): ONE}),
    "a tuple with minus zero": ({(0.0,): ONE}, {(-0.0,): ONE}),
    "another key in order": (OrderedDict(a=ONE), OrderedDict(b=ONE)),
    "a key of another type in order": (OrderedDict({1: ONE}), OrderedDict({True: ONE})),
    "another key in a bag": (Bag(a=ONE), Bag(b=ONE)),
    "one more in a bag": (Bag(a=ONE), Bag(a=ONE, b=ONE)),
    "one more in a row": (Row([ONE]), Row([ONE, ONE])),
    "another order": ({"a": ONE, "b": ONE}, {"b": ONE, "a": ONE}),
    "a tuple for a list": ([ONE], (ONE,)),
    "a table for a list": ([ONE], {"0": ONE}),
    "an ordered table": ({"a": ONE}, OrderedDict(a=ONE)),
    "another record": (Config(ONE, 1), Net(ONE, 1)),
    "fewer": ([ONE, ONE], [ONE]),
    "a number for an array": ([ONE, ONE], [ONE, 1]),
    "an array for a number": ([ONE, 1], [ONE, ONE]),
    "a scalar for an array": ([ONE, np.zeros(())], [ONE, np.float64(0)]),
    "another shape": ([ONE], [np.zeros((1, 1))]),
    "another dtype": ([ONE], [ONE.astype("f4")]),
    "another byte order": ([ONE], [ONE.astype(">f8")]),
    "longer text": (["x" * 2000], ["x" * 2001]),
    "more bytes of text": (["x" * 2000], ["é" * 2000]),
    "shorter text of as many bytes": (["x" * 1026], ["é" * 513]),
    "bytes for text": (["x" * 2000], [b"x" * 2000]),
    "a bytearray for bytes": ([b"x" * 2000], [bytearray(2000)]),
    "long text for short": ([ONE, "x" * 1024], [ONE, "x" * 1025]),
    "long text in a list": ([ONE, ["x"]], [ONE, ["x" * 1025]]),
    "a list that lost its array": ([[ONE, 1], ONE], [[1, 1], ONE]),
    "items that moved": ([[ONE, ONE], [ONE]], [[ONE], [ONE, ONE]]),
    "keys that moved": ([{"a": ONE, "b": ONE}, {"c": ONE}], [{"a": ONE}, {"b": ONE, "c": ONE}]),
    "a module for its state": ([Module([ONE])], [[ONE]]),
}


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_a_small_difference_is_seen(one: Any, other: Any) -> None:
    flattener = Flattener(SPACE)
    first = flattener.flatten(one)
    assert not first.outline.same(flatten(other, namespace=SPACE).outline)
    assert outcome(flattener.flatten, other) == outcome(afresh, other)
    assert outcome(flattener.flatten, one) == outcome(afresh, one)


def test_an_object_that_has_no_state_any_more_is_an_error() -> None:
    flattener, it = Flattener(), Stateless()
    assert flattener.flatten(it).outline.paths == ("w",)
    it.load_state_dict = None
    with pytest.raises(UnsupportedLeafError, match="Stateless"):
        flattener.flatten(it)


ALIKE: dict[str, Callable[[], Any]] = {
    "tables": lambda: {"a": {0: np.zeros(2), True: 3, None: [np.zeros(1)]}, b"b": (np.ones(1),)},
    "odd keys": lambda: {(0.0, "a"): np.zeros(2), 1.5: np.zeros(1)},
    "kinds of tables": lambda: [
        OrderedDict(a=ONE),
        defaultdict(list, a=ONE),
        Bag(a=ONE),
        Row([ONE]),
        deque([ONE]),
    ],
    "records": lambda: [Pair(ONE, 1), Config(ONE, [ONE]), Net(ONE, {"a": ONE})],
    "modules": lambda: {"a": Module({"w": ONE}), "b": Module({"n": 1}), "c": [Module(Module([ONE]))]},
    "text": lambda: {"s": "x" * 2000, "b": b"x" * 2000, "a": bytearray(2000), "short": "x"},
    "arrays": lambda: [np.zeros(2, ">f4"), np.zeros((2, 2), "c16")[::2], np.zeros(()), np.zeros((0, 3), "?")],
    "plain": lambda: {
        "n": random.random(),
        "s": str(random.random()),
        "log": [random.random()] * random.randint(0, 9),
    },
    "an array alone": lambda: np.zeros(3),
    "a value alone": random.random,
    "nothing": lambda: {"a": {}, "b": [], "c": ()},
    "generators": lambda: {"w": ONE, "g": np.random.default_rng(), "p": random.Random()},
}


@pytest.mark.parametrize("make", ALIKE.values(), ids=ALIKE)
def test_a_state_that_looks_as_it_did_is_not_walked_again(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flattener = Flattener(SPACE)
    flattener.flatten(make())
    state = make()
    expected = repr(afresh(state).structure)
    monkeypatch.setattr(flattener, "_walk", lambda *_: pytest.fail("walked again"))
    assert repr(flattener.flatten(state).structure) == expected


@given(trees)
def test_a_state_with_new_values_has_the_same_outline(tree: Any) -> None:
    flattener = Flattener(SPACE)
    try:
        first = flattener.flatten(tree)
    except UnsupportedLeafError:
        return
    again = flattener.flatten(copy.deepcopy(tree))
    assert again.outline is first.outline
    assert repr(again.structure) == repr(first.structure)


STATE: dict[str, Any] = {
    "model": {"a": np.zeros(3), "b": [np.zeros((2, 2)), np.zeros(0)]},
    "step": 3,
    "lr": 0.1,
    "log": [],
    "rng": np.random.default_rng(1),
    "sizes": {"n": [1, 2]},
}


def renewed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(STATE), **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"step": 4, "lr": float("nan")},
        {"step": None, "lr": "cosine"},
        {"log": [1.0, 2.0, {"more": ()}]},
        {"rng": np.random.default_rng(9)},
        {"rng": random.Random(1)},
        {"sizes": 7},
        {"sizes": Module({"n": 1})},
        {"step": np.float32(1)},
        {"step": "x" * 1024},
    ],
    ids=lambda changes: " ".join(changes) or "nothing",
)
def test_plain_values_may_change_in_any_way_and_are_captured_anew(changes: dict[str, Any]) -> None:
    flattener = Flattener()
    outline = flattener.flatten(STATE).outline
    state = renewed(**changes)
    flat = flattener.flatten(state)
    assert flat.outline is outline
    assert repr(flat.structure) == repr(flatten(state).structure)
    assert [value is leaf for value, leaf in zip(flat.values, flatten(state).values, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"a": np.zeros(3), "b": (np.zeros((2, 2)), np.zeros(0))}},
        {"model": {"b": [np.zeros((2, 2)), np.zeros(0)], "a": np.zeros(3)}},
        {"model": {"a": np.zeros(3, "f4"), "b": [np.zeros((2, 2)), np.zeros(0)]}},
        {"model": {"a": np.zeros(4), "b": [np.zeros((2, 2)), np.zeros(0)]}},
        {"model": {"a": np.zeros(3), "b": [np.zeros((2, 2))]}},
        {"step": np.zeros(())},
        {"step": "x" * 1025},
        {"more": 1},
    ],
    ids=lambda changes: " ".join(changes) or "nothing",
)
def test_another_structure_has_another_outline(changes: dict[str, Any]) -> None:
    flattener = Flattener()
    first = flattener.flatten(STATE)
    state = renewed(**changes)
    second = flattener.flatten(state)
    assert second.outline is not first.outline
    assert repr(second.structure) == repr(flatten(state).structure)
    assert flattener.flatten(state).outline is second.outline


def test_an_outline_that_comes_out_the_same_after_a_detour_is_the_same_object() -> None:
    flattener = Flattener()
    outline = flattener.flatten(STATE).outline
    with pytest.raises(UnsupportedLeafError):
        flattener.flatten(renewed(step=object()))
    assert flattener.flatten(STATE).outline is outline
    # Another type of container that is stored alike: the way changes, and what is kept does not.
    other = renewed(model=defaultdict(list, copy.deepcopy(STATE["model"])))
    assert flattener.flatten(other).outline is outline


def test_a_subclass_of_a_key_is_another_key() -> None:
    class Name(str):
        __slots__ = ()

    flattener = Flattener()
    flattener.flatten({"a": np.zeros(1)})
    with pytest.raises(UnsupportedLeafError, match="a key of type"):
        flattener.flatten({Name("a"): np.zeros(1)})


def test_a_list_with_a_state_of_its_own_is_asked() -> None:
    class Own(Row):
        state_dict: Any
        load_state_dict: Any

    own, flattener = Own([np.zeros(1)]), Flattener()
    assert flattener.flatten(own).outline.paths == ("0",)
    own.state_dict = lambda: {"w": np.zeros(2)}
    own.load_state_dict = id
    assert flattener.flatten(own).outline.paths == ("w",)
    ordered: Any = OrderedDict(w=np.zeros(1))
    assert flattener.flatten(ordered).outline.paths == ("w",)
    ordered.state_dict = own.state_dict
    ordered.load_state_dict = id
    assert repr(flattener.flatten(ordered).structure) == repr(flatten(ordered).structure)


def test_long_text_is_captured_each_time() -> None:
    flattener, log = Flattener(), bytearray(b"a" * 2000)
    first = flattener.flatten({"log": log})
    log[:] = b"b" * 2000
    second = flattener.flatten({"log": log})
    log[:] = b"c" * 2000
    assert (first.values[0], second.values[0]) == (b"a" * 2000, b"b" * 2000)
    assert second.outline is first.outline
    log += b"!"
    assert flattener.flatten({"log": log}).outline is not first.outline


def test_many_leaves_are_looked_at_one_by_one() -> None:
    count = 2 * CHUNK + 7
    weights = {i: np.zeros(2, "f4" if i % 3 else "f8") for i in range(count)}
    state = {"w": weights, "n": list(range(count))}
    flattener = Flattener()
    first = flattener.flatten(state)
    assert flattener.flatten(state).outline is first.outline
    for at in (0, CHUNK, count - 1):
        was = weights[at]
        weights[at] = np.zeros(3, was.dtype)
        assert flattener.flatten(state).outline.specs[at].shape == (3,)
        weights[at] = was


def test_a_failure_of_state_dict_leaves_as_it_is_and_nobody_is_asked_twice() -> None:
    broken, fine = Module({"w": np.zeros(1)}), Module({"w": np.zeros(1)})
    flattener = Flattener()
    flattener.flatten({"a": {"fine": fine}, "b": broken})
    broken.inner = KeyError
    asked.clear()
    with pytest.raises(KeyError, match="gone") as raised:
        flattener.flatten({"a": {"fine": fine}, "b": broken})
    assert raised.value.__notes__ == ["raised by state_dict() of the Module at b"]
    assert asked == [id(fine), id(broken)]


def test_objects_are_asked_in_the_order_of_the_tree() -> None:
    plain_one, with_array, last = Module({"n": 1}), Module([np.zeros(1)]), Module(2)
    state = {"a": [plain_one, with_array], "b": last}
    flattener = Flattener()
    for _ in range(2):
        asked.clear()
        flattener.flatten(state)
        assert asked == [id(plain_one), id(with_array), id(last)]


def test_nothing_of_the_state_is_kept_alive() -> None:
    array, module = np.zeros(3), Module({"n": 1})
    flattener = Flattener()
    for _ in range(2):
        flattener.flatten({"w": array, "m": module, "t": "x" * 2000})
    gone = weakref.ref(array), weakref.ref(module)
    del array, module
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_tree_that_is_too_deep_where_only_plain_values_were_is_an_error() -> None:
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    for first in (1, deep):
        flattener = Flattener()
        flattener.flatten({"w": np.zeros(1), "d": first})
        assert flattener.flatten({"w": np.zeros(1), "d": deep}).outline.paths == ("w",)
        with pytest.raises(UnsupportedLeafError, match="more than 100 levels") as raised:
            flattener.flatten({"w": np.zeros(1), "d": [deep]})
        assert str(raised.value.path).startswith("d/0/0")


def test_several_threads_may_use_one_at_once() -> None:
    states = [{f"w{i}": np.zeros(i + 1) for i in range(n)} for n in (3, 4)]
    flattener = Flattener()
    wrong: list[Any] = []

    def work(state: Any) -> None:
        found = [flattener.flatten(state).outline.paths for _ in range(200)]
        wrong.extend(paths for paths in found if paths != tuple(state))

    threads = [threading.Thread(target=work, args=(states[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
