"""``PrometheusObserver``: scraped over HTTP, and parsed by the library's own parser."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from async_ckpt import events
from async_ckpt.observers import PrometheusObserver
from async_ckpt.testing import FakeClock
from tests.observers.lives import at, live

prometheus_client = pytest.importorskip("prometheus_client")


@pytest.fixture
def registry() -> Any:
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def scrape(registry: Any) -> Iterator[Any]:
    """Ask the library's own server for the metrics; gives sample values by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)

    def get() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield get
    server.shutdown()
    server.server_close()
    thread.join(30)
    assert thread not in threading.enumerate()


def test_a_run_as_prometheus_sees_it(tmp_path: Path, registry: Any, scrape: Any) -> None:
    live(tmp_path, PrometheusObserver(registry))
    found = scrape()

    def value(name: str, **labels: str) -> float:
        return found[f"async_ckpt_{name}", frozenset({"directory": str(tmp_path), **labels}.items())]  # type: ignore[no-any-return]

    assert value("save_stall_seconds_count") == 2
    assert value("save_stall_seconds_sum") == 2.0  # a second of before_save each
    assert value("save_seconds_count") == 2
    assert value("save_seconds_bucket", le="1.0") == 2
    assert value("save_bytes_sum") > 16_000
    assert value("saves_total", outcome="committed") == 2
    assert value("saves_in_flight") == 0
    assert value("last_durable_step") == 4
    assert value("last_durable_timestamp_seconds") > 1e9
    assert value("checkpoints_deleted_total") == 1
    called = {"listener": "evaluator", "phase": "after_save"}
    assert value("listener_seconds_sum", **called) == 4.0
    assert value("listener_seconds_count", **called) == 2


def test_outcomes_and_what_is_in_flight(registry: Any) -> None:
    observer = PrometheusObserver(registry)

    def get(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"async_ckpt_{name}", {"directory": "d", **labels})  # type: ignore[no-any-return]

    observer(at(events.SaveRequested, directory="d", step=1))
    assert get("saves_in_flight") == 1
    observer(at(events.SaveFailed, directory="d", step=1, reason="x"))
    assert get("saves_in_flight") == 0
    observer(at(events.SaveRequested, directory="d", step=2))
    observer(at(events.SaveUnknown, directory="d", step=2, reason="x"))
    observer(at(events.SaveSkipped, directory="d", step=3, reason="busy"))
    assert [get("saves_total", outcome=name) for name in ("failed", "unknown", "skipped", "committed")] == [
        1, 1, 1, None,
    ]  # fmt: skip
    # Its `before_save` failed, so no outcome is told.
    observer(at(events.SaveRequested, directory="d", step=4))
    observer(at(events.SessionEnded, step=4, error=None))
    assert get("saves_in_flight") == 0


def test_the_age_of_the_last_checkpoint_is_as_of_the_scrape(registry: Any) -> None:
    clock = FakeClock()
    observer = PrometheusObserver(registry, clock=clock)
    committed = {"directory": "d", "path": "d/step", "bytes": 1, "seconds": 1.0}
    observer(events.SaveCommitted(at=0.0, wall=clock.wall(), step=7, **committed))  # type: ignore[arg-type]
    clock.advance(90)
    age = registry.get_sample_value("async_ckpt_last_durable_age_seconds", {"directory": "d"})
    assert age == pytest.approx(90)


def test_two_sessions_share_a_registry(tmp_path: Path, registry: Any, scrape: Any) -> None:
    live(tmp_path / "a", PrometheusObserver(registry))
    live(tmp_path / "b", PrometheusObserver(registry))
    steps = {labels for name, labels in scrape() if name == "async_ckpt_last_durable_step"}
    assert len(steps) == 2
