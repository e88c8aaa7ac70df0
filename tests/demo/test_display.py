"""Plain lines: one for each thing worth a line, at once, and quietly over when nobody reads them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest

from async_ckpt import events
from async_ckpt.cli.demo.display import LiveDisplay, PlainDisplay, choose
from async_ckpt.cli.demo.view import Saved, View

D = "runs/x"


def make(kind: type[events.Event], **fields: Any) -> events.Event:
    return kind(at=0.0, wall=0.0, **fields)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def never() -> None:
    pytest.fail("the output was not closed")


def lines(*seen: events.Event) -> list[str]:
    view, out = View(D, 100, 0.97), io.StringIO()
    face = PlainDisplay(view, out, never)
    for event in seen:
        view.observe(event)
        face.tell(event)
    return out.getvalue().splitlines()


def test_a_durable_checkpoint_is_acknowledged_in_one_line() -> None:
    view, out = View(D, 100, 0.97), io.StringIO()
    view.loss = 0.5
    PlainDisplay(view, out, never).measured(150, 0.875, Saved(150, 1234, 0.01))
    assert out.getvalue() == "saved step=150 bytes=1234 accuracy=0.875000 loss=0.5000 seconds=0.0100\n"


def test_a_checkpoint_of_an_earlier_run_is_not_acknowledged_as_saved() -> None:
    view, out = View(D, 100, 0.97), io.StringIO()
    PlainDisplay(view, out, never).measured(150, 0.875, None)
    assert out.getvalue() == "evaluated step=150 accuracy=0.875000\n"


def test_each_event_worth_a_line_has_one() -> None:
    assert lines(
        make(events.StopVoted, listener="evaluator", step=20, reason="good"),
        make(events.SignalReceived, step=1, signal="SIGINT", count=1),
        make(events.SignalReceived, step=1, signal="SIGINT", count=2),
        make(events.SaveFailed, directory=D, step=20, reason="disk full"),
        make(events.CheckpointRejected, step=9, path=D, reason="short"),
        make(events.CheckpointDeleted, directory=D, step=20),
        make(events.CheckpointsAbandoned, directory=D, steps=(30, 40)),
        make(events.SaveProgress, directory=D, step=20, bytes_done=1, bytes_total=2),
    ) == [
        "vote step=20 by=evaluator reason=good",
        "SIGINT: one more save, then it stops; a second one stops it at once",
        "trouble: save of step 20: disk full",
        "trouble: checkpoint 9 passed over: short",
        "deleted step=20",
        "set aside steps=30,40",
    ]


def test_a_reader_that_went_away_is_told_once_and_nothing_fails_after_it() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told: list[str] = []
    with os.fdopen(writer, "w") as out:
        face = PlainDisplay(View(D, 100, 0.97), out, lambda: told.append("closed"))
        face.say("one")
        face.say("two")
    assert told == ["closed"]


def test_a_file_and_a_dumb_terminal_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    view = View(D, 100, 0.97)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(choose(view, plain=False, on_closed=never), PlainDisplay)

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose(view, plain=False, on_closed=never), PlainDisplay)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose(view, plain=True, on_closed=never), PlainDisplay)
    assert isinstance(choose(view, plain=False, on_closed=never), LiveDisplay)


@pytest.mark.asyncio
async def test_the_panel_gives_the_cursor_back_when_the_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    face = choose(View(D, 100, 0.97), plain=False, on_closed=never)
    with pytest.raises(ZeroDivisionError):
        async with face:
            face.say("resumed from step 40")
            face.tell(make(events.SessionBegan, step=40, resumed=True))
            raise ZeroDivisionError
    text = out.getvalue()
    assert text.startswith("resumed from step 40\n")
    assert "async-ckpt demo" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.asyncio
async def test_of_a_session_that_was_never_entered_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    async with choose(View(D, 100, 0.97), plain=False, on_closed=never):
        pass
    assert "async-ckpt demo" not in out.getvalue()


@pytest.mark.asyncio
async def test_trouble_is_told_whole_above_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    reason = "/a/long/way/down/" + "x" * 80 + ": 100 bytes instead of 1208360"
    view = View(D, 100, 0.97)
    async with choose(view, plain=False, on_closed=never) as face:
        rejected = make(events.CheckpointRejected, step=9, path=D, reason=reason)
        view.observe(rejected)
        face.tell(rejected)
    assert f"trouble: checkpoint 9 passed over: {reason}\n" in out.getvalue()
