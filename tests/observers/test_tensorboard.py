"""``TensorBoardObserver``: scalars, read back out of the event files."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorboardX")

from async_ckpt.observers import TensorBoardObserver
from tests.observers.lives import live


def scalars(directory: Path) -> Iterator[tuple[str, int, float]]:
    """Every scalar in a directory's event files: records of length, checksum, protobuf, checksum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboardX.proto.event_pb2 import Event

    (path,) = directory.glob("events.out.tfevents.*")
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event: Any = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            yield value.tag, event.step, round(value.simple_value, 6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_figures_and_metrics_are_scalars_by_step(tmp_path: Path) -> None:
    live(tmp_path / "run", TensorBoardObserver(tmp_path / "logs"))
    found = list(scalars(tmp_path / "logs"))
    table: dict[str, list[tuple[int, float]]] = {}
    for tag, step, value in found:
        table.setdefault(tag, []).append((step, value))
    assert table["async_ckpt/stall_secs"] == [(2, 1.0), (4, 1.0)]
    assert [step for step, _ in table["async_ckpt/durable_secs"]] == [2, 4]
    assert all(value > 8000 for _, value in table["async_ckpt/bytes"])
    assert table["async_ckpt/listener_secs/evaluator.after_save"] == [(2, 2.0), (4, 2.0)]
    assert table["checkpoint/accuracy"] == [(2, 0.2), (4, 0.4)]
    assert table["checkpoint/loss"] == [(2, 0.5), (4, 0.5)]
