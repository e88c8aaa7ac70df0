"""The table of promises names tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .promises import PROMISES

ROOT = Path(__file__).parents[3]


def test_every_promise_is_there() -> None:
    assert list(PROMISES) == [f"S{number}" for number in range(1, 15)]


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_names_tests_that_are_there(number: str) -> None:
    _, tests = PROMISES[number]
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        found = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in found, test
