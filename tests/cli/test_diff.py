"""``diff``: what changed, by how much, and what did not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from async_ckpt.cli.comparing import Difference, difference
from tests.cli.command import flip, run, saved, state


def test_the_same_checkpoint_has_no_differences(tmp_path: Path) -> None:
    saved(tmp_path, 1, make=lambda _: {**state(1), "rng": np.random.default_rng(3)})
    done = run("diff", tmp_path, f"{tmp_path}@1")
    assert done.code == 0
    assert "identical groups: frozen, model" in done.out
    assert "was saved the same" in done.out


def test_changes_are_measured_and_unchanged_groups_named(tmp_path: Path) -> None:
    saved(tmp_path, 1, 3)
    done = run("diff", f"{tmp_path}@1", f"{tmp_path}@3", "--json")
    assert done.code == 1
    record = done.json()
    assert record["different"] is True
    assert record["changed"] == [
        {
            "path": "model/w", "dtype": ["F32", "F32"], "shape": [[3, 4], [3, 4]],
            "max_abs": 2.0, "mean_abs": 2.0, "elements": 12, "nans": 0,
        }
    ]  # fmt: skip
    assert (record["added"], record["removed"], record["values"]) == ([], [], [])
    assert record["identical_groups"] == ["frozen"]
    assert (record["first"]["step"], record["second"]["step"]) == (1, 3)
    plain = run("diff", f"{tmp_path}@1", f"{tmp_path}@3").out
    assert "model/w" in plain
    assert "identical groups: frozen" in plain


def test_added_removed_and_reshaped_tensors_and_plain_values_are_named(tmp_path: Path) -> None:
    old = {"a": np.zeros(2), "b": np.zeros(2), "n": 1, "rng": np.random.default_rng(1)}
    new = {"b": np.zeros(3), "c": np.zeros(2, np.int8), "n": 2, "rng": np.random.default_rng(2)}
    saved(tmp_path / "old", 1, make=lambda _: old)
    saved(tmp_path / "new", 1, make=lambda _: new)
    record = run("diff", tmp_path / "old", tmp_path / "new", "--json").json()
    assert [entry["path"] for entry in record["removed"]] == ["a"]
    assert [(entry["path"], entry["dtype"]) for entry in record["added"]] == [("c", "I8")]
    (changed,) = record["changed"]
    assert (changed["path"], changed["shape"], changed["max_abs"]) == ("b", [[2], [3]], None)
    assert [value["path"] for value in record["values"]] == ["n", "rng"]
    assert (record["values"][0]["first"], record["values"][0]["second"]) == ("1", "2")
    plain = run("diff", tmp_path / "old", tmp_path / "new").out
    assert "F64 2 -> F64 3" in plain
    assert "n: 1 -> 2" in plain


def test_a_value_of_one_side_only_is_told_from_none(tmp_path: Path) -> None:
    saved(
        tmp_path, 1, 2, make=lambda step: {"a": np.zeros(2), "n": None} if step == 1 else {"a": np.zeros(2)}
    )
    assert "n: None -> not there" in run("diff", f"{tmp_path}@1", f"{tmp_path}@2").out


def test_values_that_are_not_what_was_saved_are_not_compared(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-00000002" / "model-00001-of-00001.safetensors", -40)
    done = run("diff", f"{tmp_path}@1", f"{tmp_path}@2")
    assert done.code == 1
    assert "model-00001-of-00001.safetensors: the tensor 'model/w' is not what was saved" in done.err
    assert done.out == ""


F8 = np.array([1, 2], ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 5.0], Difference(3.0, 1.5, 1, 0)),
        ([0.0], [-0.0], Difference(0.0, 0.0, 0, 0)),
        ([math.nan, 1.0], [math.nan, 2.0], Difference(1.0, 0.5, 1, 0)),
        ([math.nan, 1.0], [1.0, 1.0], Difference(0.0, 0.0, 1, 1)),
        ([math.inf], [math.inf], Difference(0.0, 0.0, 0, 0)),
        ([math.inf], [1.0], Difference(math.inf, math.inf, 1, 0)),
        ([], [], Difference(0.0, 0.0, 0, 0)),
        (np.array([-128], np.int8), np.array([127], np.int8), Difference(255.0, 255.0, 1, 0)),
        (np.array([0], np.uint8), np.array([255], np.uint8), Difference(255.0, 255.0, 1, 0)),
        (np.array([2**63], np.uint64), np.array([2**63 + 1], np.uint64), Difference(1.0, 1.0, 1, 0)),
        (np.array([True]), np.array([False]), Difference(1.0, 1.0, 1, 0)),
        (np.array([3 + 4j], np.complex64), np.array([0j], np.complex64), Difference(5.0, 5.0, 1, 0)),
        (F8, F8 * F8.dtype.type(2), Difference(2.0, 1.5, 2, 0)),
        (np.array([1.5], ml_dtypes.bfloat16), np.array([1.0], np.float32), Difference(0.5, 0.5, 1, 0)),
        (np.array(1.0), np.array(3.0), Difference(2.0, 2.0, 1, 0)),
    ],
)
def test_the_difference_of_two_arrays(a: Any, b: Any, expected: Difference) -> None:
    assert difference(np.asarray(a), np.asarray(b)) == expected


def test_large_arrays_are_compared_in_pieces() -> None:
    a = np.zeros(3_000_000, np.float32)
    b = a.copy()
    b[[0, 1_048_576, -1]] = 3
    assert difference(a, b) == Difference(3.0, 9 / 3_000_000, 3, 0)
