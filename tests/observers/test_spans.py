"""``OpenTelemetryObserver``: the spans that the SDK exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from async_ckpt import events
from async_ckpt.observers import OpenTelemetryObserver
from tests.observers.lives import at, live

pytest.importorskip("opentelemetry.sdk")


@pytest.fixture
def exported() -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, provider.get_tracer("test")


def secs(span: Any) -> float:
    return float(round((span.end_time - span.start_time) / 1e9, 3))


def test_each_save_is_a_span_with_its_parts_as_children(tmp_path: Path, exported: Any) -> None:
    exporter, tracer = exported
    live(tmp_path, OpenTelemetryObserver(tracer))
    spans = exporter.get_finished_spans()
    saves = [span for span in spans if span.name == "async_ckpt.save"]
    assert [span.attributes["async_ckpt.step"] for span in saves] == [2, 4]
    for save in saves:
        assert save.attributes["async_ckpt.directory"] == str(tmp_path)
        assert save.attributes["async_ckpt.bytes"] > 8000
        assert save.attributes["async_ckpt.path"].startswith(str(tmp_path))
        assert save.status.is_ok or save.status.is_unset
        children = [span for span in spans if span.parent and span.parent.span_id == save.context.span_id]
        assert [child.name for child in children] == [
            "evaluator.before_save", "staged", "written", "committed", "evaluator.after_save",
        ]  # fmt: skip
        assert [secs(child) for child in children] == [1.0, 1.0, 1.0, 1.0, 2.0]
        assert all(
            save.start_time <= child.start_time <= child.end_time <= save.end_time for child in children
        )
    assert {span.name for span in spans if span.parent is None} == {"async_ckpt.save"}


def test_failures_have_the_status_error_and_their_reason(exported: Any) -> None:
    from opentelemetry.trace import StatusCode

    exporter, tracer = exported
    observer = OpenTelemetryObserver(tracer)
    called = {"directory": "d", "listener": "l", "phase": "before_save", "step": 1, "seconds": 1.0}
    observer(at(events.ListenerCalled, 0.0, error=None, **called))
    observer(at(events.SaveRequested, 1.0, directory="d", step=1))
    observer(at(events.ListenerCalled, 2.0, error="LookupError()", **called))
    observer(at(events.SaveFailed, 3.0, directory="d", step=1, reason="no space"))
    observer(at(events.SaveStaged, 3.0, directory="d", step=1, bytes=1, seconds=1.0))
    # Neither this one's end nor that of a session that left it open is told.
    observer(at(events.SaveRequested, 4.0, directory="d", step=2))
    observer(at(events.SaveRequested, 5.0, directory="d", step=3))
    observer(at(events.SessionEnded, 9.0, step=3, error=None))
    listener, failed, open_one, last = exporter.get_finished_spans()
    assert (listener.status.status_code, listener.status.description) == (StatusCode.ERROR, "LookupError()")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "no space")
    assert [secs(span) for span in (failed, open_one, last)] == [2.0, 1.0, 4.0]
