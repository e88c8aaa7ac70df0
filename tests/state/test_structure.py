"""A structure from a file is judged in full before anything is built of it."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.state.tree import flatten, select, unflatten
from tests.state.roundtrip import stored_arrays, through_json

ARRAYS = [np.zeros(2, "<f4"), np.zeros(3, "u1")]


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (["list", ["array", 0, "numpy"]], "leaves out 1 of 2 leaves"),
        (["list"], "leaves out 2 of 2"),
        (["list", ["array", 0, "numpy"], ["array", 0, "numpy"]], "used before"),
        (["list", ["array", 0, "numpy"], ["array", 2, "numpy"]], "does not exist"),
        (["list", ["array", 0, "numpy"], ["array", -1, "numpy"]], "does not exist"),
        (["list", ["array", 0, "numpy"], ["array", True, "numpy"]], "does not exist"),
        (["list", ["array", 0, "numpy"], ["array", "1", "numpy"]], "does not exist"),
        (["list", ["array", 0, "numpy"], ["array", [], "numpy"]], "does not exist"),
        (["list", ["array", 0, "numpy"], ["array", 1, 5]], "text expected"),
        (["list", ["array", 0, "numpy"], ["array", 1, "pickle"]], "unknown kind"),
        (["list", ["array", 0, "str"], ["array", 1, "numpy"]], "cannot be a str"),
        (["list", ["array", 0, "numpy"], ["array", 1, "torch:c128"]], "cannot be a torch:c128"),
        (["list", ["array", 0, "numpy"], ["array", 1, "numpy", 3]], "wrong length"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_leaves_that_do_not_add_up_are_damage(structure: Any, words: str) -> None:
    with pytest.raises(DamagedCheckpointError, match=words):
        unflatten(structure, ARRAYS)


def test_choosing_judges_the_structure_too() -> None:
    with pytest.raises(DamagedCheckpointError):
        select(["list", ["array", 5, "numpy"]], 1, "0")


STRUCTURE = through_json(
    flatten(
        {
            "m": [np.zeros(2, "f4"), (b"x" * 2000, 1.5)],
            "r": np.random.default_rng(1),
            3: "t",
            "n": np.float32(1),
        }
    ).structure
)


def places(tree: Any, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    found = [at]
    for i, child in enumerate(tree if isinstance(tree, list) else ()):
        found.extend(places(child, (*at, i)))
    return found


def replaced(tree: Any, at: tuple[int, ...], new: Any) -> Any:
    if not at:
        return new
    return [replaced(child, at[1:], new) if i == at[0] else child for i, child in enumerate(tree)]


@given(
    st.sampled_from(places(STRUCTURE)),
    st.sampled_from(
        [None, True, -1, 0, 2, 10**30, 1.5, "", "x", "list", "array", [], {}, ["list"], ["array", 0, "numpy"]]
    ),
)
def test_any_change_of_a_structure_is_built_or_called_damaged(at: tuple[int, ...], new: Any) -> None:
    arrays = [np.zeros(2, "<f4"), np.zeros(2000, "u1")]
    with contextlib.suppress(DamagedCheckpointError):
        unflatten(replaced(STRUCTURE, at, new), arrays)


def test_nothing_is_looked_up_by_the_names_in_a_structure() -> None:
    structure = [
        "list",
        ["dataclass", "os.system", "command", "true"],
        ["namedtuple", "builtins.eval", "x", "1"],
        ["node", "subprocess.Popen", "0", "true"],
        ["stateful", "shutil.rmtree", "/"],
    ]
    assert unflatten(structure, []) == [{"command": "true"}, ("1",), ["true"], "/"]


def test_arrays_share_the_memory_they_are_given() -> None:
    flat = flatten({"a": np.arange(4.0), "c": np.ones(2, complex)})
    arrays = stored_arrays(flat)
    back = unflatten(flat.structure, arrays)
    assert np.shares_memory(back["a"], arrays[0])
    assert np.shares_memory(back["c"], arrays[1])
    assert back["a"].flags.writeable
