"""``RichProgress``: bars while a save is written, lines for those that are over."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

pytest.importorskip("rich")

from rich.console import Console

from async_ckpt import events
from async_ckpt.observers import RichProgress
from tests.observers.lives import at, live


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=100, color_system=None), out


def test_each_durable_save_is_a_line(tmp_path: Path) -> None:
    where, out = console(terminal=False)
    live(tmp_path, RichProgress(where))
    lines = [line for line in out.getvalue().splitlines() if "durable" in line]
    assert [line.split(" is durable")[0] for line in lines] == ["step 2", "step 4"]
    assert all(str(tmp_path) in line for line in lines)


def test_a_bar_shows_how_far_a_save_is_and_goes_when_it_is_over() -> None:
    where, out = console(terminal=True)
    progress = RichProgress(where)
    progress(at(events.SaveStaged, directory="d", step=7, bytes=100_000_000, seconds=0.1))
    progress(at(events.SaveProgress, directory="d", step=7, bytes_done=25_000_000, bytes_total=100_000_000))
    assert "step 7" in out.getvalue()
    assert "25.0/100.0 MB" in out.getvalue()
    progress(at(events.SaveProgress, directory="other", step=1, bytes_done=1, bytes_total=1))
    progress(at(events.SaveFailed, directory="d", step=7, reason="no [space]"))
    assert "step 7 failed: no [space]" in out.getvalue()
    assert not progress._bars
    progress(at(events.SaveUnknown, directory="d", step=8, reason="x"))
    assert "may or may not be durable" in out.getvalue()
    progress(at(events.SessionEnded, step=8, error=None))
    assert not progress._progress.live.is_started
