"""``PerfettoTrace``: a file in the trace event format, with a track for each thing that takes time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import events
from async_ckpt.observers import PerfettoTrace
from tests.observers.lives import at, live


def tracks(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What lies on each track, in the order of the file; checks what every entry has to have."""
    entries = json.loads(path.read_text())
    names = {e["tid"]: e["args"]["name"] for e in entries if e["name"] == "thread_name"}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        assert entry["ph"] in {"X", "i", "M"}
        assert entry["pid"] == 1
        if entry["ph"] != "M":
            assert entry["ts"] >= 0
            assert entry["ph"] == "i" or entry["dur"] >= 0
            found[names[entry["tid"]]].append(entry)
    return found


def test_steps_staging_writes_and_listeners_have_tracks_of_their_own(tmp_path: Path) -> None:
    live(tmp_path / "run", PerfettoTrace(tmp_path / "trace.json"))
    found = tracks(tmp_path / "trace.json")
    run = tmp_path / "run"
    assert set(found) == {"session", "steps", f"staging {run}", f"writes {run}", "listener evaluator"}
    assert [(e["name"], e["dur"]) for e in found["steps"]] == [(f"step {n}", 10e6) for n in (1, 2, 3, 4)]
    assert found["steps"][0]["ts"] == 100e6
    assert [(e["name"], e["dur"]) for e in found[f"staging {run}"]] == [("stage 2", 1e6), ("stage 4", 1e6)]
    assert [e["name"] for e in found[f"writes {run}"]] == ["write 2", "commit 2", "write 4", "commit 4"]
    assert [(e["name"], e["dur"]) for e in found["listener evaluator"]] == [
        ("before_save 2", 1e6), ("after_save 2", 2e6), ("before_save 4", 1e6), ("after_save 4", 2e6),
    ]  # fmt: skip
    assert [e["name"] for e in found["session"]] == [
        "SessionBegan", "StopVoted", "StopDecided", "CheckpointDeleted", "SessionEnded",
    ]  # fmt: skip
    # On one track nothing lies over anything else.
    for entries in found.values():
        ends = 0.0
        for entry in entries:
            assert entry["ts"] >= ends
            ends = entry["ts"] + entry.get("dur", 0)


def test_a_failed_save_is_on_the_timeline(tmp_path: Path) -> None:
    trace = PerfettoTrace(tmp_path / "trace.json")
    trace(at(events.SaveRequested, 1.0, directory="d", step=1))
    trace(at(events.SaveFailed, 3.0, directory="d", step=1, reason="no space"))
    trace.close()
    trace.close()
    (failed,) = tracks(tmp_path / "trace.json")["writes d"]
    assert (failed["name"], failed["dur"], failed["args"]) == ("failed 1", 2e6, {"reason": "no space"})


def test_what_a_killed_process_leaves_can_be_opened(tmp_path: Path) -> None:
    code = f"""
import os, signal
from async_ckpt import events
from async_ckpt.observers import PerfettoTrace
trace = PerfettoTrace({str(tmp_path / "trace.json")!r})
for step in range(20_000):
    trace(events.StepTaken(at=float(step), wall=0.0, step=step, steps=1, seconds=0.5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    text = (tmp_path / "trace.json").read_text()
    whole = text[: text.rindex("\n")].rstrip(",")
    assert len(json.loads(whole + "]")) > 1000


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PerfettoTrace(tmp_path / "nowhere" / "trace.json")
