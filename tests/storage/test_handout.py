"""Who reads which range next, and whose failure is raised."""

from __future__ import annotations

import threading

import pytest

from async_ckpt.storage.ranges import Handout


class Numbered:
    """A range that is only its number."""

    name = "x"
    size = 1

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def target(self) -> None:
        return None

    def take(self, at: int, data: memoryview) -> None:
        raise AssertionError


def handout_of(count: int) -> Handout:
    return Handout([Numbered(number) for number in range(count)])


def test_each_range_is_given_out_once_and_in_order() -> None:
    handout = handout_of(5)
    seen: list[int] = []
    handout.run(lambda item: seen.append(item.offset))
    handout.run(lambda item: seen.append(item.offset))
    handout.check()
    assert seen == [0, 1, 2, 3, 4]
    assert len(handout) == 5


def test_the_failure_of_the_foremost_range_counts_though_it_came_last() -> None:
    handout = handout_of(9)
    begun = threading.Barrier(2, timeout=30)
    failed = threading.Event()
    errors = {0: ValueError("the foremost"), 1: ValueError("the faster")}

    def read(item: Numbered) -> None:
        begun.wait()
        if item.offset == 0:
            assert failed.wait(30)
        raise errors[item.offset]

    def run() -> None:
        handout.run(read)  # type: ignore[arg-type]
        # Whichever thread ends first is the one whose failure came first.
        failed.set()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ValueError, match="foremost"):
        handout.check()


def test_after_a_failure_no_range_is_begun() -> None:
    handout = handout_of(3)
    seen: list[int] = []

    def read(item: Numbered) -> None:
        seen.append(item.offset)
        raise KeyboardInterrupt

    handout.run(read)  # type: ignore[arg-type]
    assert seen == [0]
    with pytest.raises(KeyboardInterrupt):
        handout.check()


def test_once_stopped_no_range_is_begun() -> None:
    handout = handout_of(3)
    seen: list[int] = []

    def read(item: Numbered) -> None:
        seen.append(item.offset)
        handout.stop()

    handout.run(read)  # type: ignore[arg-type]
    handout.check()
    assert seen == [0]
    assert handout.stopped
