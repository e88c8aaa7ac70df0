"""The fake clock."""

from __future__ import annotations

import math

import pytest

from async_ckpt.system.clock import Clock
from async_ckpt.testing import FakeClock


def test_time_stands_still_until_it_is_advanced() -> None:
    clock: Clock = FakeClock(monotonic=5, wall=100)
    assert (clock.monotonic(), clock.wall()) == (5.0, 100.0)
    assert isinstance(clock, FakeClock)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.monotonic(), clock.wall()) == (7.5, 102.5)


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan])
def test_time_never_goes_back(seconds: float) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="forward only"):
        clock.advance(seconds)
    assert clock.monotonic() == 0.0


def test_the_wall_clock_alone_can_be_set_back() -> None:
    clock = FakeClock(wall=1000)
    clock.advance(10)
    clock.set_wall(500)
    assert (clock.monotonic(), clock.wall()) == (10.0, 500.0)
