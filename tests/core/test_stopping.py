"""The stop flag: what was decided, what was asked for, and where each becomes known."""

from __future__ import annotations

from itertools import product

import pytest

from async_ckpt.core.stopping import StopFlag


def flag(*, decided: bool, asked: bool, published: bool) -> StopFlag:
    stop = StopFlag()
    stop.decided = "decided" if decided else None
    stop.asked = asked
    stop.reason = "published" if published else None
    return stop


CASES = list(product((False, True), repeat=3))


@pytest.mark.parametrize(("decided", "asked", "published"), CASES)
def test_a_boundary_publishes_whatever_was_decided_and_the_first_reason_stays(
    decided: bool, asked: bool, published: bool
) -> None:
    stop = flag(decided=decided, asked=asked, published=published)
    stop.publish()
    assert stop.reason == ("published" if published else "decided" if decided else None)


@pytest.mark.parametrize(("decided", "asked", "published"), CASES)
def test_without_a_boundary_only_what_was_asked_for_becomes_known(
    decided: bool, asked: bool, published: bool
) -> None:
    stop = flag(decided=decided, asked=asked, published=published)
    stop.publish_asked()
    assert stop.reason == ("published" if published else "decided" if decided and asked else None)
