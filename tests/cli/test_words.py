"""Sizes, ages and metrics in words."""

from __future__ import annotations

import pytest

from async_ckpt.cli import words


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1024, "1.02 kB"),
        (12_345, "12.3 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_490_000_000, "1.49 GB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes_have_three_figures(nbytes: int, said: str) -> None:
    assert words.size(nbytes) == said


@pytest.mark.parametrize(
    ("secs", "said"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1.0 min"),
        (720, "12 min"),
        (5400, "1.5 h"),
        (1e6, "12 d"),
    ],
)
def test_ages_are_in_the_largest_unit(secs: float, said: str) -> None:
    assert words.age(secs) == said


def test_one_is_not_many() -> None:
    assert [words.count(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_metrics_stand_on_one_line() -> None:
    assert words.metrics({"loss": 0.1234567, "n": 3.0}) == "loss=0.123457, n=3"
