"""``watch_checkpoints``: the newest one, then each newer one, under a lease, from any process."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import Checkpoint, ProtocolError, RestoreError, Saver, watch_checkpoints
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.system.threads import Worker, spawn
from async_ckpt.testing import run_sim
from tests.cli.command import flip


async def save(saver: Saver, *steps: int) -> None:
    for step in steps:
        await saver.save({"x": np.full(3, step)}, step, metrics={"loss": float(step)})


def simulated(main: Any) -> None:
    """Run in virtual time: what waits a minute takes none."""

    async def closing() -> None:
        store = MemoryStore()
        async with Saver(store, max_to_keep=None) as saver:
            await main(store, saver)

    run_sim(closing)


def test_the_newest_is_given_first_and_those_that_were_missed_are_not() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        await save(saver, 1, 2, 3)
        async with watch_checkpoints(store, timeout_secs=10) as watch:
            first = await anext(watch)
            assert isinstance(first, Checkpoint)
            assert (first.step, first.metrics) == (3, {"loss": 3.0})
            await save(saver, 4, 5, 6)
            assert (await anext(watch)).step == 6
            with pytest.raises(StopAsyncIteration):
                await anext(watch)

    simulated(main)


def test_it_waits_for_the_first_one_and_each_newer_one() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        async def later() -> None:
            for step in (1, 2, 3):
                await asyncio.sleep(60)
                await save(saver, step)

        saving = spawn(later(), name="later")
        seen = []
        async with watch_checkpoints(store, timeout_secs=100, poll_secs=7) as watch:
            async for checkpoint in watch:
                now = asyncio.get_running_loop().time()
                assert now - 60 * checkpoint.step < 8
                seen.append(checkpoint.step)
        assert seen == [1, 2, 3]
        await saving

    simulated(main)


def test_the_time_limit_starts_anew_with_each_wait() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        loop = asyncio.get_running_loop()
        watch = watch_checkpoints(store, timeout_secs=10)
        began = loop.time()
        assert [checkpoint.step async for checkpoint in watch] == []
        assert loop.time() - began == pytest.approx(10, abs=0.1)
        await save(saver, 1)
        watch = watch_checkpoints(store, timeout_secs=10)
        await anext(watch)
        await asyncio.sleep(100)
        began = loop.time()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        assert loop.time() - began == pytest.approx(10, abs=0.1)

    simulated(main)


def test_two_are_never_given_closer_than_the_least_interval() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        loop = asyncio.get_running_loop()
        async with watch_checkpoints(store, min_interval_secs=30, timeout_secs=100) as watch:
            await save(saver, 1)
            await anext(watch)
            began = loop.time()
            await save(saver, 2)
            assert (await anext(watch)).step == 2
            assert loop.time() - began >= 30
        async with watch_checkpoints(store, min_interval_secs=30, timeout_secs=5) as watch:
            await anext(watch)
            await save(saver, 3)
            began = loop.time()
            with pytest.raises(StopAsyncIteration):
                await anext(watch)
            assert loop.time() - began == pytest.approx(5, abs=0.1)

    simulated(main)


def test_the_one_being_looked_at_is_not_deleted_and_the_next_wait_lets_it_go() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        await save(saver, 1)
        async with watch_checkpoints(store, timeout_secs=1) as watch:
            assert (await anext(watch)).step == 1
            with pytest.raises(ProtocolError, match="being read"):
                await saver.delete(1)
            await save(saver, 2)
            assert (await anext(watch)).step == 2
            await saver.delete(1)
            with pytest.raises(ProtocolError, match="being read"):
                await saver.delete(2)
        await saver.delete(2)

    simulated(main)


def test_an_iteration_that_ends_leaves_no_lease() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        await save(saver, 1)
        async for _ in watch_checkpoints(store, timeout_secs=1):
            pass
        await saver.delete(1)

    simulated(main)


def test_a_step_saved_again_is_new_and_an_older_one_is_not() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        await save(saver, 1, 2)
        async with watch_checkpoints(store, timeout_secs=5) as watch:
            assert (await anext(watch)).step == 2
            await asyncio.sleep(1)
            await save(saver, 2)
            assert (await anext(watch)).step == 2
            watch_again = spawn(anext(watch), name="again")
            await asyncio.sleep(2)
            await saver.delete(2)
            await asyncio.wait([watch_again])
            assert isinstance(watch_again.exception(), StopAsyncIteration | RuntimeError)

    simulated(main)


def test_a_run_that_was_started_over_below_is_followed() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        await save(saver, 10, 20)
        async with watch_checkpoints(store, timeout_secs=5) as watch:
            assert (await anext(watch)).step == 20
            await store.abandon(10)
            await save(saver, 15)
            assert (await anext(watch)).step == 15

    simulated(main)


def test_a_cancelled_wait_loses_nothing() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        async with watch_checkpoints(store, timeout_secs=50) as watch:
            waiting = spawn(anext(watch), name="wait")
            await asyncio.sleep(3)
            waiting.cancel()
            await asyncio.wait([waiting])
            await save(saver, 1)
            assert (await anext(watch)).step == 1

    simulated(main)


def test_a_closed_watch_refuses() -> None:
    async def main(store: MemoryStore, saver: Saver) -> None:
        watch = watch_checkpoints(store)
        await watch.aclose()
        await watch.aclose()
        with pytest.raises(ProtocolError, match="closed"):
            await anext(watch)

    simulated(main)


@pytest.mark.parametrize("number", [-1, math.nan, "1", True])
@pytest.mark.parametrize("name", ["min_interval_secs", "timeout_secs", "poll_secs"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, name: str, number: Any) -> None:
    with pytest.raises(ValueError, match=name):
        watch_checkpoints(tmp_path, **{name: number})


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with Saver(tmp_path) as saver:
            await save(saver, 1, 2)
        flip(tmp_path / "step-00000002" / "manifest.json")
        async with watch_checkpoints(tmp_path, timeout_secs=0.05, poll_secs=0.01) as watch:
            assert [checkpoint.step async for checkpoint in watch] == [1]

    run(main())


def test_a_place_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        async with watch_checkpoints(tmp_path / "file") as watch:
            with pytest.raises(RestoreError):
                await anext(watch)

    run(main())


WRITER = """
import asyncio, sys
import numpy as np
from async_ckpt import Saver

async def main():
    async with Saver(sys.argv[1], max_to_keep=1) as saver:
        for step in range(1, 6):
            await saver.save({"x": np.full(1000, step)}, step)
            print(step, flush=True)
            sys.stdin.readline()

asyncio.run(main())
"""


@pytest.mark.parametrize("watching", [True, False], ids=["watchfiles", "polling"])
def test_checkpoints_of_another_process_are_seen_and_kept_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watching: bool
) -> None:
    if watching:
        pytest.importorskip("watchfiles")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    directory = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    stdin = child.stdin

    async def main() -> None:
        seen = []
        # With a look every minute only, whoever is not told would run into the time limit of the test.
        poll = 60.0 if watching else 0.01
        reader = Worker("reader")
        async with watch_checkpoints(directory, poll_secs=0.01) as first:
            await anext(first)
        async with watch_checkpoints(directory, timeout_secs=60, poll_secs=poll) as watch:
            async for checkpoint in watch:
                seen.append(checkpoint.step)
                # The writer goes on to the next one, and its retention keeps one only.
                stdin.write("\n")
                stdin.flush()
                if checkpoint.step == 5:
                    break
                await reader.call(child.stdout.readline)  # type: ignore[union-attr]
                assert (Path(checkpoint.path) / "manifest.json").exists()
        reader.close()
        assert seen[-1] == 5
        assert seen == sorted(seen)

    try:
        run(main())
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.communicate()


def test_whoever_is_cancelled_at_any_moment_of_the_watching_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Saver(tmp_path) as saver:
            await save(saver, 1)
        for number in range(40):
            async with watch_checkpoints(tmp_path, poll_secs=30) as watch:
                await anext(watch)
                waiting = spawn(anext(watch), name="wait")
                # Around the moment at which a change is told, from before it is noticed to after.
                loop.call_later(0.02, (tmp_path / f"touched-{number}").touch)
                loop.call_later(0.02 + number * 0.004, waiting.cancel)
                await asyncio.wait([waiting])
                assert waiting.cancelled()

    run(main())
