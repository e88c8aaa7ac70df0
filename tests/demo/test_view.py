"""What the demo shows is what happened: events in, fields and text out."""

from __future__ import annotations

import io
from typing import Any

import pytest

from async_ckpt import Vote, events
from async_ckpt.cli.demo.view import View

D = "runs/x"


def make(kind: type[events.Event], **fields: Any) -> events.Event:
    return kind(at=0.0, wall=0.0, **fields)


def view(*seen: events.Event) -> View:
    result = View(D, 100, 0.97)
    for event in seen:
        result.observe(event)
    return result


REQUESTED = make(events.SaveRequested, directory=D, step=20)
STAGED = make(events.SaveStaged, directory=D, step=20, bytes=500, seconds=0.002)
PROGRESS = make(events.SaveProgress, directory=D, step=20, bytes_done=300, bytes_total=512)
COMMITTED = make(events.SaveCommitted, directory=D, step=20, path=D, bytes=600, seconds=0.03)


def test_a_resumed_session_is_told_from_a_new_one() -> None:
    assert view(make(events.SessionBegan, step=0, resumed=False)).resumed is None
    assert view(make(events.SessionBegan, step=40, resumed=True)).resumed == 40


def test_a_save_is_followed_from_the_request_to_the_disk() -> None:
    seen = view(REQUESTED, STAGED)
    assert (seen.saving, seen.bytes_done, seen.bytes_total, seen.held) == (20, 0, 500, 0.002)
    seen.observe(PROGRESS)
    assert (seen.bytes_done, seen.bytes_total) == (300, 512)
    seen.observe(COMMITTED)
    assert seen.saving is None
    assert seen.last is not None
    assert (seen.last.step, seen.last.bytes, seen.kept) == (20, 600, [20])


def test_the_accuracy_belongs_to_the_save_it_was_measured_on() -> None:
    seen = view(COMMITTED)
    assert seen.measured(0, 0.1) is None
    saved = seen.measured(20, 0.8)
    assert saved is seen.last
    assert saved is not None
    assert saved.accuracy == 0.8
    assert list(seen.accuracies) == [0.1, 0.8]


@pytest.mark.parametrize("kind", [events.SaveFailed, events.SaveUnknown])
def test_a_failed_save_is_trouble_and_no_checkpoint(kind: type[events.Event]) -> None:
    seen = view(REQUESTED, make(kind, directory=D, step=20, reason="disk full"))
    assert seen.saving is None
    assert seen.last is None
    assert seen.trouble == "save of step 20: disk full"


def test_deleted_checkpoints_leave_the_list() -> None:
    seen = view(COMMITTED, make(events.CheckpointDeleted, directory=D, step=20))
    assert seen.kept == []


def test_checkpoints_set_aside_leave_the_list() -> None:
    seen = view(COMMITTED, make(events.CheckpointsAbandoned, directory=D, steps=(20, 30)))
    assert seen.kept == []


def test_trouble_names_its_step_once() -> None:
    failed = make(events.SaveFailed, directory=D, step=20, reason="step 20: /x: No space left on device")
    assert view(failed).trouble == "save of step 20: /x: No space left on device"


def test_votes_and_the_stop_are_kept_in_words() -> None:
    seen = view(
        make(events.StopVoted, listener="evaluator", step=20, reason="good"),
        make(events.StopVoted, listener="other", step=20, reason=None),
        make(events.StopDecided, step=20, reason="good"),
        make(events.SignalReceived, step=1, signal="SIGINT", count=1),
        make(events.CheckpointRejected, step=9, path=D, reason="short"),
        make(events.SessionEnded, step=20, error=None),
    )
    assert seen.votes == ["evaluator at step 20: good", "other at step 20: stop"]
    assert seen.stopping == "good"
    assert seen.signals == 1
    assert seen.trouble == "checkpoint 9 passed over: short"


def test_what_earlier_runs_left_is_shown_beside_what_happens_now() -> None:
    seen = view(make(events.StopVoted, listener="evaluator", step=60, reason="good"))
    seen.inherit([Vote("evaluator", 40, "good", earlier=True), Vote("evaluator", 60, "good")], [40, 20])
    assert seen.votes == ["evaluator at step 40, in an earlier run", "evaluator at step 60: good"]
    assert seen.kept == [20, 40]


def drawn(seen: View, width: int = 120) -> str:
    pytest.importorskip("rich")
    from rich.console import Console

    from async_ckpt.cli.demo.panel import Panel

    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(Panel(seen))
    return out.getvalue()


def test_the_panel_of_a_run_that_has_not_begun() -> None:
    text = drawn(view())
    for words in ("0 of 100", "not measured yet", "0 B of 0 B", "nothing yet", "none yet", "Ctrl-C saves"):
        assert words in text


def test_the_panel_of_a_run_in_full_swing() -> None:
    seen = view(make(events.SessionBegan, step=40, resumed=True), COMMITTED, REQUESTED, STAGED, PROGRESS)
    seen.loss = 0.25
    for accuracy in (0.1, 0.5, 0.9):
        seen.measured(1, accuracy)
    text = drawn(seen)
    for words in (
        "40 of 100", "0.2500", "▁", "█", "90.0% held out, stops at 97.0%", "step 20: 300 B of 512 B",
        "step 20, 600 B, durable in 30 ms", "training held 2.0 ms",
    ):  # fmt: skip
        assert words in text


def test_the_panel_says_why_it_stops_and_what_went_wrong() -> None:
    seen = view(make(events.SignalReceived, step=1, signal="SIGINT", count=1))
    assert "one more save" in drawn(seen)
    seen.observe(make(events.StopDecided, step=20, reason="accuracy 97.5%"))
    seen.observe(make(events.SaveFailed, directory=D, step=20, reason="disk full"))
    text = drawn(seen)
    assert "stopping: accuracy 97.5%" in text
    assert "disk full" in text


def test_the_panel_of_a_resumed_run_names_the_earlier_checkpoint() -> None:
    assert "step 40, from an earlier run" in drawn(view(make(events.SessionBegan, step=40, resumed=True)))


def test_a_narrow_terminal_is_no_error() -> None:
    assert drawn(view(COMMITTED), width=20)
    assert "accuracy" in drawn(view(COMMITTED), width=60)


def test_sparklines() -> None:
    pytest.importorskip("rich")
    from async_ckpt.cli.demo.panel import sparkline

    assert sparkline([]) == ""
    assert sparkline([3.0]) == "▁"
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
