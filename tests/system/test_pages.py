"""Memory from the operating system: where it starts, whose it is, and that it is given back."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from async_ckpt.system import pages
from async_ckpt.system.pages import HUGE, fresh_pages, mapped_file, resident


def areas() -> list[tuple[int, int, str, list[str]]]:
    """Start, end, permissions and flags of every area of memory."""
    found: list[tuple[int, int, str, list[str]]] = []
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, _, end = first.partition("-")
            found.append((int(start, 16), int(end, 16), rest[0], []))
        elif first == "VmFlags:":
            found[-1][3].extend(rest)
    return found


def area_of(row: np.ndarray) -> tuple[int, int, str, list[str]]:
    (area,) = (area for area in areas() if area[0] <= row.ctypes.data < area[1])
    return area


@pytest.mark.parametrize("nbytes", [0, 1, 4096, HUGE - 1, HUGE, 5 * HUGE + 3])
def test_a_row_has_the_size_asked_for_and_starts_where_a_huge_page_does(nbytes: int) -> None:
    row = fresh_pages(nbytes)
    assert row.dtype == np.uint8
    assert row.shape == (nbytes,)
    assert row.ctypes.data % HUGE == 0
    row[:] = 7
    assert int(row.sum()) == 7 * nbytes


def test_rows_do_not_overlap_and_huge_pages_are_advised() -> None:
    rows = [fresh_pages(HUGE) for _ in range(5)]
    for number, row in enumerate(rows):
        row[:] = number
    assert [int(row.max()) for row in rows] == [int(row.min()) for row in rows] == list(range(5))
    assert all("hg" in area_of(row)[3] for row in rows)


def test_memory_is_given_back_with_the_last_view_of_it() -> None:
    size = 64 * HUGE
    view = fresh_pages(size)[5 : size - 5].view(np.uint8)[100:]
    address = view.ctypes.data
    assert any(start <= address < end for start, end, _, _ in areas())
    del view
    assert not any(start <= address < end for start, end, _, _ in areas())


def test_memory_that_a_device_writes_to_is_not_shared_with_a_forked_child() -> None:
    assert "dc" in area_of(fresh_pages(4096, inherited=False))[3]
    assert "dc" not in area_of(fresh_pages(4096))[3]


def test_more_memory_than_there_is_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="no memory for"):
        fresh_pages(1 << 60)


def test_a_mapped_file_is_private_and_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    with path.open("rb") as file:
        row = mapped_file(file.fileno(), 25_600)
    path.unlink()
    (tmp_path / "file").write_bytes(b"another")
    assert row.tobytes() == bytes(range(256)) * 100
    row[:3] = 0
    assert row[:4].tolist() == [0, 0, 0, 3]
    assert path.read_bytes() == b"another"


def test_where_memory_is_not_promised_a_file_is_mapped_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    system = pages._system
    assert system is not None
    real = system.map

    def strict(size: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        if protection & mmap.PROT_WRITE:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(size, protection, flags, fd, offset)

    monkeypatch.setattr(system, "map", strict)
    with path.open("rb") as file:
        row = mapped_file(file.fileno(), 5)
    assert row.tobytes() == b"12345"
    assert not row.flags.writeable


def test_what_cannot_be_mapped_says_why(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="No such device"):
        mapped_file(fd, 5)
    os.close(fd)


def test_what_lies_in_the_page_cache_is_known_without_touching_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    assert resident(fd, 0, 1 << 20, 16)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert not resident(fd, 0, 1 << 20, 16)
    assert not resident(fd, 5_000, 100_000, 2)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 1, 500_000)
    assert resident(fd, 500_000, 1, 2), "what is asked about is all there"
    assert not resident(fd, 0, 1 << 20, 2), "what is asked about is not all there"
    os.close(fd)


def test_where_nobody_can_tell_everything_is_said_to_be_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert resident(fd, 0, 4096, 2)
    os.close(fd)
    monkeypatch.setattr(pages, "_system", None)
    assert resident(-1, 0, 4096, 2)
    assert fresh_pages(10).shape == (10,)
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with path.open("rb") as file:
        assert mapped_file(file.fileno(), 5).tobytes() == b"12345"
        assert mapped_file(file.fileno(), 0).size == 0
