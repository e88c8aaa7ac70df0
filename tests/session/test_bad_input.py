"""Places, files and states that are no good: a clear error that names place and cause, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    DamagedCheckpointError,
    DirectoryLockedError,
    FormatVersionError,
    ListenerError,
    MonitoredTrainingSession,
    RestoreError,
    SaveError,
    Saver,
    UnsupportedLeafError,
)
from async_ckpt.events import SaveFailed
from async_ckpt.testing import RecordingListener
from tests.session.lives import (
    Log,
    flip_byte,
    listed,
    live,
    names,
    new_state,
    newer_format,
    restored_state,
    tensor_file,
    train,
)
from tests.session.mounts import frozen, read_only, small_disk

pytestmark = pytest.mark.asyncio


def session_on(directory: Any, state: Any = None, **more: Any) -> MonitoredTrainingSession:
    state = new_state() if state is None else state
    return MonitoredTrainingSession(hooks=[CheckpointSaverHook(directory, state, save_steps=1, **more)])


def contents(directory: Path) -> dict[str, bytes]:
    """Every byte below a directory, the event log, locks and leases aside."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in (".lock", "events.jsonl") and ".pins" not in path.parts
    }


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["file", "file/run"])
async def test_a_directory_that_is_a_file_is_refused_before_any_callback(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("precious")
    listener = RecordingListener("l")
    with pytest.raises(SaveError) as caught:
        async with session_on(tmp_path / below, listeners=[listener]):
            pytest.fail("not reached")
    assert str(tmp_path / "file") in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert listener.log == []
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("below", ["file", "file/run"])
async def test_a_saver_says_the_same_and_reads_nothing_from_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("precious")
    async with Saver(tmp_path / below) as saver:
        with pytest.raises(SaveError) as caught:
            await saver.save(new_state(), 1)
        assert str(tmp_path / "file") in str(caught.value)
        with pytest.raises(RestoreError) as refused:
            await saver.checkpoints()
        assert str(tmp_path / "file") in str(refused.value)


async def test_a_directory_nobody_may_write_to_is_refused_at_entry_and_read_all_the_same(
    tmp_path: Path,
) -> None:
    await live(tmp_path / "run", 2)
    before = contents(tmp_path / "run")
    listener = RecordingListener("l")
    with read_only(tmp_path / "run"):
        with pytest.raises(SaveError) as caught:
            async with session_on(tmp_path / "run", listeners=[listener]):
                pytest.fail("not reached")
        assert str(tmp_path / "run") in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
        assert listener.log == []
        async with Saver(tmp_path / "run") as saver:
            assert (await saver.restore()).step == 2
    assert contents(tmp_path / "run") == before


async def test_a_directory_that_turns_read_only_fails_the_save_and_nothing_else(tmp_path: Path) -> None:
    await live(tmp_path / "run", 1)
    before = contents(tmp_path / "run")
    state, log = new_state(), Log()
    session = session_on(tmp_path / "run", state)
    session.subscribe(log)
    with pytest.raises(SaveError) as caught:
        async with session:
            with frozen(tmp_path / "run"):
                await train(session, state, 1)
                await session.drain()
            await session.advance()
    assert str(tmp_path / "run") in str(caught.value)
    assert caught.value.outcome == "failed"
    assert before.items() <= contents(tmp_path / "run").items()
    assert log.of(SaveFailed)[0].step == 2


async def test_a_full_disk_fails_the_save_and_the_next_one_succeeds_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        state = {"w": np.zeros(40_000), "n": 0}
        hook = CheckpointSaverHook(disk / "run", state, save_steps=1, initial_save="never", max_to_keep=2)
        session, log = MonitoredTrainingSession(hooks=[hook]), Log()
        session.subscribe(log)
        async with session:
            await train(session, state, 1)
            await session.drain()
            (disk / "ballast").write_bytes(bytes(500_000))
            await train(session, state, 1)
            await session.drain()
            with pytest.raises(SaveError) as caught:
                await train(session, state, 1)
            assert "space" in str(caught.value)
            assert str(disk) in str(caught.value)
            assert (caught.value.step, caught.value.outcome) == (2, "failed")
            await session.drain()
            assert await listed(disk / "run") == [1]
            assert not [name for name in names(disk / "run") if name.startswith(".tmp")]
            (disk / "ballast").unlink()
            for _ in range(4):
                # The error of the save before may still be on its way here.
                with contextlib.suppress(SaveError):
                    await train(session, state, 1)
                await session.drain()
        assert {event.step for event in log.of(SaveFailed)} >= {2}
        newest = (await listed(disk / "run"))[-1]
        assert newest == session.global_step
        assert (await restored_state(disk / "run", newest))["n"] == newest


# -- files -----------------------------------------------------------------------------------------


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte of the manifest": lambda step: flip_byte(step / "manifest.json", 200),
    "an empty manifest": lambda step: (step / "manifest.json").write_bytes(b""),
    "no manifest": lambda step: (step / "manifest.json").unlink(),
    "a flipped byte of a tensor": lambda step: flip_byte(next(step.glob("*.safetensors"))),
    "a truncated tensor file": lambda step: os.truncate(next(step.glob("*.safetensors")), 4100),
    "no tensor file": lambda step: next(step.glob("*.safetensors")).unlink(),
    "a longer tensor file": lambda step: os.truncate(next(step.glob("*.safetensors")), 4200),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_named_when_it_is_asked_for_and_passed_over_when_it_is_not(
    tmp_path: Path, damage: str
) -> None:
    await live(tmp_path, 2)
    DAMAGES[damage](tmp_path / "step-00000002")
    before = contents(tmp_path)
    with pytest.raises(DamagedCheckpointError) as caught:
        async with session_on(tmp_path, restore=2):
            pytest.fail("not reached")
    assert caught.value.step == 2
    assert str(tmp_path / "step-00000002") in str(caught.value)
    assert contents(tmp_path) == before
    state = new_state()
    session = session_on(tmp_path, state)
    with pytest.warns(RuntimeWarning, match="step 2 was passed over"):
        await session.__aenter__()
    assert session.global_step == 1
    assert state["n"] == 1
    await session.aclose()
    assert contents(tmp_path) == before, "nothing was written and nothing deleted"


async def test_a_flipped_byte_of_a_header_is_found_by_verify(tmp_path: Path) -> None:
    """Values are read by what the manifest says, so it harms no resume; it would harm other readers."""
    await live(tmp_path, 1)
    flip_byte(tensor_file(tmp_path, 1), 20)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError) as caught:
            await saver.verify(1)
    assert caught.value.path == str(tensor_file(tmp_path, 1))


async def test_a_newer_format_is_no_damage_and_says_so(tmp_path: Path) -> None:
    await live(tmp_path, 1, initial_save="never")
    newer_format(tmp_path, 1)
    with pytest.raises(FormatVersionError) as caught:
        async with session_on(tmp_path):
            pytest.fail("not reached")
    assert "format 2" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    async with Saver(tmp_path) as saver:
        with pytest.raises(FormatVersionError):
            await saver.restore(1)


async def test_a_newer_format_above_an_older_checkpoint_is_passed_over_and_kept(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    newer_format(tmp_path, 2)
    state = new_state()
    with pytest.warns(RuntimeWarning, match="format 2"):
        async with session_on(tmp_path, state) as session:
            assert session.global_step == 1
            await train(session, state, 1)
    assert len([name for name in names(tmp_path) if name.startswith(".abandoned-step-00000002")]) == 1


async def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    full_width = "step-" + "\uff10" * 7 + "\uff19"
    for directory in ("step-0001", full_width, "events"):
        (tmp_path / directory).mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    await live(tmp_path, 2)
    assert await listed(tmp_path) == [0, 1, 2]
    assert {"step-0001", full_width, "notes.txt", "events"} <= set(names(tmp_path))


# -- two writers -----------------------------------------------------------------------------------


async def test_a_second_writer_in_this_process_is_refused_at_entry_and_the_first_goes_on(
    tmp_path: Path,
) -> None:
    state, listener = new_state(), RecordingListener("second")
    async with session_on(tmp_path, state) as first:
        await first.drain()
        with pytest.raises(DirectoryLockedError) as caught:
            async with session_on(tmp_path, listeners=[listener]):
                pytest.fail("not reached")
        assert caught.value.path == str(tmp_path)
        assert str(os.getpid()) in str(caught.value)
        async with Saver(tmp_path) as saver:
            with pytest.raises(DirectoryLockedError):
                await saver.save(new_state(), 9)
            assert (await saver.latest()) is not None, "reading needs no lock"
        await train(first, state, 1)
    assert listener.log == []
    assert await listed(tmp_path) == [0, 1]


HOLDER = """
import asyncio, sys, numpy as np
from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession

async def main():
    state = {"w": np.zeros(4), "n": 0}
    hook = CheckpointSaverHook(sys.argv[1], state, save_steps=1)
    async with MonitoredTrainingSession(hooks=[hook]) as session:
        await session.drain()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


async def test_a_writer_in_another_process_is_named_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - there is no other task it could hold up
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(DirectoryLockedError) as caught:
            async with session_on(tmp_path):
                pytest.fail("not reached")
        assert f"process {process.pid}" in str(caught.value)
        assert caught.value.owner is not None
    finally:
        process.kill()
        process.communicate()
    async with session_on(tmp_path) as session:
        assert session.global_step == 0
        assert session.restored is not None


async def test_when_the_second_of_two_hooks_finds_its_directory_taken_the_first_is_free_again(
    tmp_path: Path,
) -> None:
    async with Saver(tmp_path / "b") as other:
        await other.save(new_state(), 1)
        hooks = [CheckpointSaverHook(tmp_path / name, new_state(), save_steps=1) for name in "ab"]
        with pytest.raises(DirectoryLockedError):
            async with MonitoredTrainingSession(hooks=hooks):
                pytest.fail("not reached")
        async with session_on(tmp_path / "a"):
            pass


# -- states ----------------------------------------------------------------------------------------


class Odd:
    pass


BAD_STATES = {
    "an object": ({"model": {"layer": Odd()}}, "model/layer"),
    "an array of objects": ({"a": [np.array([object()])]}, "a/0"),
    "a dtype nobody has": ({"t": np.array(["2020-01-01"], "datetime64[D]")}, "t"),
    "a structured array": ({"s": np.zeros(2, [("x", "f4")])}, "s"),
    "a set": ({"ids": {1, 2}}, "ids"),
    "a function": ({"f": print}, "f"),
}


@pytest.mark.parametrize("name", BAD_STATES)
@pytest.mark.parametrize("restore", ["latest", None])
async def test_a_state_that_cannot_be_saved_is_refused_before_any_callback(
    tmp_path: Path, name: str, restore: Any
) -> None:
    await live(tmp_path, 1)
    before = contents(tmp_path)
    state, path = BAD_STATES[name]
    listener = RecordingListener("l")
    with pytest.raises(UnsupportedLeafError) as caught:
        async with session_on(tmp_path, state, listeners=[listener], restore=restore):
            pytest.fail("not reached")
    assert caught.value.path == path
    assert path in str(caught.value)
    assert listener.log == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", BAD_STATES)
async def test_a_saver_refuses_it_at_once_and_touches_nothing(tmp_path: Path, name: str) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save(new_state(), 1)
        before = contents(tmp_path)
        with pytest.raises(UnsupportedLeafError) as caught:
            saver.start_save(BAD_STATES[name][0], 2)
        assert caught.value.path == BAD_STATES[name][1]
        assert contents(tmp_path) == before


async def test_a_state_that_goes_bad_later_fails_that_save_and_the_good_one_after_it_is_taken(
    tmp_path: Path,
) -> None:
    state: dict[str, Any] = new_state()
    listener = RecordingListener("l")
    async with session_on(tmp_path, state, listeners=[listener]) as session:
        await train(session, state, 1)
        await session.drain()
        before = contents(tmp_path)
        state["odd"] = Odd()
        with pytest.raises(UnsupportedLeafError) as caught:
            await train(session, state, 1)
        assert caught.value.path == "odd"
        assert ("l", "after_save", 2) not in listener.log
        assert contents(tmp_path) == before
        del state["odd"]
        await train(session, state, 1)
    assert await listed(tmp_path) == [0, 1, 3]


async def test_a_metric_that_is_no_number_fails_the_save_in_words(tmp_path: Path) -> None:
    state = new_state()
    with pytest.raises(SaveError, match="metric 'loss' is not a number"):
        async with session_on(tmp_path, state, initial_save="never") as session:
            session.metrics["loss"] = "low"  # type: ignore[assignment]
            await train(session, state, 1)
    assert await listed(tmp_path) == []


async def test_a_failed_entry_leaves_no_lock_no_thread_and_no_task(tmp_path: Path) -> None:
    with pytest.raises(ListenerError):
        async with session_on(
            tmp_path, listeners=[RecordingListener("l", raise_in={"begin": LookupError("no")})]
        ):
            pytest.fail("not reached")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with session_on(tmp_path):
        pass
