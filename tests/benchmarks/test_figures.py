"""Medians, spans and ratios."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Summary, digits, durable, extra_memory, first, later, ratios, span, stall
from tests.benchmarks.made import REFERENCE, saves


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_a_summary_lies_between_its_least_and_its_largest(values: list[float]) -> None:
    found = Summary.of(values)
    assert found is not None
    assert (found.least, found.most, found.count) == (min(values), max(values), len(values))
    assert found.median == statistics.median(values)


def test_no_values_have_no_summary() -> None:
    assert Summary.of([]) is None
    assert span([]) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.0, "2"),
        (0.9, "0.9"),
        (1.2345, "1.23"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12346"),
        (100.0, "100"),
        (0.00012345, "0.000123"),
        (-1.5, "-1.5"),
        (float("inf"), "inf"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_span_tells_median_least_and_largest_and_a_single_value_stands_alone() -> None:
    assert span([0.003, 0.001, 0.002], 1e3) == "2 (1 - 3)"
    assert span([0.5]) == "0.5"


def test_the_first_save_of_a_process_is_kept_apart() -> None:
    runs = [saves("x", (9.0, 90.0), (1.0, 10.0), (2.0, 20.0)), saves("x", (8.0, 80.0), (3.0, 30.0), round=1)]
    assert later(runs, REFERENCE, stall) == [1.0, 2.0, 3.0]
    assert first(runs, REFERENCE, durable) == [90.0, 80.0]


def test_where_there_was_time_for_one_save_it_counts() -> None:
    assert later([saves("x", (9.0, 90.0))], REFERENCE, stall) == [9.0]
    assert later([saves("x")], REFERENCE, stall) == []


def test_what_a_system_does_not_have_is_left_out() -> None:
    assert later([saves("direct", (None, 1.0), (None, 2.0))], REFERENCE, stall) == []


def test_ratios_compare_what_was_measured_in_the_same_round() -> None:
    ours = [saves("ours", (1.0, 1.0), (1.0, 1.0)), saves("ours", (1.0, 1.0), (4.0, 4.0), round=1)]
    peer = [saves("peer", (3.0, 3.0), (3.0, 3.0)), saves("peer", (8.0, 8.0), (8.0, 8.0), round=1)]
    assert ratios(peer, ours, REFERENCE, durable) == [3.0, 2.0]
    assert ratios(peer[:1], ours[1:], REFERENCE, durable) == []


def test_extra_memory_is_the_peak_less_what_was_there() -> None:
    runs = [saves("x", memory_base=100, memory_peak=250), saves("x", memory_base=100)]
    assert extra_memory(runs) == [150.0]
