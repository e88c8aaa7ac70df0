"""The event log: whole lines, appended, rotated, and readable whatever happened to the end of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_ckpt import events
from async_ckpt.storage import journal, posix
from async_ckpt.storage.journal import Journal, encode_event, read_events


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def deleted(step: int) -> bytes:
    return encode_event(events.CheckpointDeleted(at=1.5, wall=2.5, directory="d", step=step))


def steps(directory: Path) -> list[int]:
    return [entry["step"] for entry in read_events(directory)]


def test_a_line_is_plain_json_with_the_kind_first() -> None:
    assert deleted(7).decode() == (
        '{"event":"CheckpointDeleted","at":1.5,"wall":2.5,"directory":"d","step":7}\n'
    )


def test_every_event_can_be_spelt() -> None:
    event = events.SaveStaged(at=0.0, wall=0.0, directory="ü\n", step=1, bytes=2, seconds=float("nan"))
    assert json.loads(encode_event(event)) == {
        "event": "SaveStaged", "at": 0.0, "wall": 0.0, "directory": "ü\n", "step": 1, "bytes": 2,
        "seconds": None,
    }  # fmt: skip
    abandoned = events.CheckpointsAbandoned(at=0.0, wall=0.0, directory="d", steps=(1, 2))
    assert json.loads(encode_event(abandoned))["steps"] == [1, 2]


def test_what_an_earlier_writer_wrote_stays(tmp_path: Path, root: int) -> None:
    for life in range(3):
        log = Journal(root)
        log.append(deleted(life) + deleted(life + 10))
        log.close()
        log.close()
    assert steps(tmp_path) == [0, 10, 1, 11, 2, 12]


@pytest.mark.parametrize("half", [b'{"event":"Check', b"x", b"x" * 70_000])
def test_half_a_line_is_left_out_by_readers_and_cut_off_by_the_next_writer(
    tmp_path: Path, root: int, half: bytes
) -> None:
    log = Journal(root)
    log.append(deleted(1))
    log.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(half)
    assert steps(tmp_path) == [1]
    log = Journal(root)
    log.append(deleted(2))
    log.close()
    assert (tmp_path / "events.jsonl").read_bytes() == deleted(1) + deleted(2)


def test_a_log_that_is_one_half_line_starts_over(tmp_path: Path, root: int) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"half")
    log = Journal(root)
    log.append(deleted(1))
    log.close()
    assert steps(tmp_path) == [1]


def test_what_a_failed_write_left_is_cut_off_by_the_next(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Journal(root)
    log.append(deleted(1))
    real = posix.pwrite

    def short(fd: int, data: memoryview, offset: int) -> int:
        if offset > len(deleted(1)):
            raise OSError(28, "No space left on device")
        return real(fd, data[:10], offset)

    monkeypatch.setattr(posix, "pwrite", short)
    with pytest.raises(OSError, match="space"):
        log.append(deleted(2))
    monkeypatch.setattr(posix, "pwrite", real)
    log.append(deleted(3))
    log.close()
    assert (tmp_path / "events.jsonl").read_bytes() == deleted(1) + deleted(3)


def test_a_large_log_is_rotated_and_only_the_newest_parts_stay(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 2 * len(deleted(10)))
    log = Journal(root)
    for step in range(10, 25):
        log.append(deleted(step))
    log.close()
    assert steps(tmp_path) == list(range(18, 25))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3",
    ]  # fmt: skip


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, root: int) -> None:
    away = tmp_path / "away"
    away.write_bytes(b"precious")
    (tmp_path / "events.jsonl").symlink_to(away)
    with pytest.raises(OSError, match="symbolic links"):
        Journal(root).append(deleted(1))
    assert away.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"event":1,"at":1,"wall":1}', b'{"event":"x","at":"1","wall":1}', b"\xff", b"{"],
)
def test_lines_that_are_no_events_are_left_out(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(deleted(1) + line + b"\n" + deleted(2))
    assert steps(tmp_path) == [1, 2]


def test_without_a_log_there_are_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []
    assert list(read_events(tmp_path / "nowhere")) == []
