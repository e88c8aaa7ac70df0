"""``LoggingObserver``: each event a record, with its step."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from async_ckpt import events
from async_ckpt.observers import LoggingObserver
from tests.observers.lives import at, live


def test_every_event_is_a_record_with_kind_step_and_fields(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "async_ckpt.events"):
        live(tmp_path, LoggingObserver())
    records = [record for record in caplog.records if record.name == "async_ckpt.events"]
    kinds = [record.event for record in records if record.event != "SaveProgress"]  # type: ignore[attr-defined]
    save = ["SaveRequested", "SaveStaged", "SaveCommitted"]
    assert kinds == [
        "SessionBegan", *save, *save, "StopVoted", "StopDecided", "CheckpointDeleted", "SessionEnded",
    ]  # fmt: skip
    assert all(isinstance(record.step, int) for record in records)  # type: ignore[attr-defined]
    (first, last) = [record for record in records if record.event == "SaveCommitted"]  # type: ignore[attr-defined]
    assert (first.step, last.step) == (2, 4)  # type: ignore[attr-defined]
    assert first.levelno == logging.INFO
    assert first.getMessage().startswith(f"SaveCommitted directory={tmp_path} step=2 ")
    assert first.fields["bytes"] > 8000  # type: ignore[attr-defined]


def test_trouble_is_a_warning_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    observer = LoggingObserver(logging.getLogger("mine"))
    with caplog.at_level(logging.INFO, "mine"):
        observer(at(events.SaveRequested, directory="d", step=3))
        observer(at(events.SaveFailed, directory="d", step=3, reason="no space"))
        observer(at(events.SignalReceived, step=3, signal="SIGTERM", count=1))
    assert [(record.name, record.levelname, record.step) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("mine", "ERROR", 3),
        ("mine", "WARNING", 3),
    ]
    assert "reason=no space" in caplog.text
