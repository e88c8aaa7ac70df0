"""``stats``: what the event log of a run says, in figures and as a plot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession
from async_ckpt.cli.statistics import Spread, gather
from async_ckpt.testing import RecordingListener
from tests.cli.command import run, state


def train(directory: Path, steps: int) -> None:
    async def live() -> None:
        now = state(0)
        hook = CheckpointSaverHook(directory, now, save_steps=1, listeners=[RecordingListener("watcher")])
        async with MonitoredTrainingSession(hooks=[hook]) as session:
            for _ in range(steps):
                await session.advance()

    asyncio.run(live())


def test_a_run_of_two_lives_is_summed_up(tmp_path: Path) -> None:
    train(tmp_path, 3)
    train(tmp_path, 2)
    record = run("stats", tmp_path, "--json").json()
    assert (record["sessions"], record["resumed"], record["ended"]) == (2, 1, 2)
    # Step 0 of the new run, and each step of both.
    assert (record["saves"], record["last_step"]) == (6, 5)
    for name in ("stall_secs", "durable_secs", "bytes", "bytes_per_sec"):
        assert 0 < record[name]["min"] <= record[name]["median"] <= record[name]["max"]
    calls = {(entry["listener"], entry["phase"]): entry["calls"] for entry in record["listeners"]}
    assert calls[("watcher", "after_save")] == 6
    assert calls[("watcher", "begin")] == 2
    assert record["events"]["CheckpointDeleted"] == 1
    plain = run("stats", tmp_path)
    assert plain.code == 0
    assert "2 sessions, 1 of them resumed" in plain.out
    assert "step held" in plain.out
    assert "watcher.after_save (6)" in plain.out


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train(tmp_path / "run", 2)
    done = run("stats", tmp_path / "run", "--png", tmp_path / "plot.png")
    assert done.code == 0, done.err
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_without_a_log_ends_with_3(tmp_path: Path) -> None:
    done = run("stats", tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "events.jsonl" in done.err


def entry(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "at": 0.0, "wall": 1.0, **fields}


def test_a_save_is_joined_with_its_own_staging_only() -> None:
    stats = gather(
        [
            entry("SessionBegan", resumed=False),
            entry("SaveStaged", step=1, seconds=0.5, bytes=10),
            entry("SaveFailed", step=1),
            entry("SessionBegan", resumed=True),
            entry("SaveCommitted", step=1, seconds=2.0, bytes=10),
            entry("SaveStaged", step=2, seconds=0.25, bytes=10),
            entry("SaveCommitted", step=2, seconds=4.0, bytes=10),
        ]
    )
    assert [(save.step, save.stall, save.durable) for save in stats.saves] == [(1, None, 2.0), (2, 0.25, 4.0)]
    assert stats.counts == {"SaveFailed": 1}
    assert stats.record()["bytes_per_sec"] == {"median": 3.75, "min": 2.5, "max": 5.0}


def test_malformed_entries_are_left_out() -> None:
    stats = gather(
        [
            entry("SaveCommitted"),
            entry("SaveCommitted", step="1"),
            entry("SaveCommitted", step=True),
            entry("SaveStaged", step=1, seconds="x"),
            entry("ListenerCalled", seconds=None),
            entry("Unheard"),
            entry("SaveCommitted", step=1, seconds=None, bytes=None),
            entry("SaveCommitted", step=2, seconds=0, bytes=5),
        ]
    )
    assert [save.step for save in stats.saves] == [1, 2]
    record = stats.record()
    assert record["bytes_per_sec"] is None
    assert json.dumps(record)


def test_a_spread_of_nothing_is_none() -> None:
    assert Spread.of([]) is None
    assert Spread.of([None, 3.0, 1.0]) == Spread(2.0, 1.0, 3.0)
