"""Where memory lacks, the lock is given back all the same, or can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from async_ckpt.storage import local, posix, writing
from async_ckpt.storage.journal import Journal
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import Failing, load, save


@pytest_asyncio.fixture
async def other(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """Another writer of the same directory, not opened yet."""
    made = LocalStore(tmp_path / "runs")
    yield made
    await made.aclose()


@pytest.mark.asyncio
async def test_an_opening_that_lacked_memory_at_its_end_holds_no_lock(
    tmp_path: Path, other: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "runs")
    monkeypatch.setattr(local, "Journal", Failing(Journal, 1, MemoryError))
    with pytest.raises(MemoryError):
        await store.open()
    await other.open()
    await save(other, 1, b"next")
    assert await load(other, 1) == b"next"
    await store.aclose()


@pytest.mark.asyncio
async def test_what_was_taken_and_could_not_be_told_is_given_back(
    tmp_path: Path, other: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "runs")
    call, undone = store._crew.call, Failing(lambda: None, 1, MemoryError)

    async def cut_short(*args: Any, **kwargs: Any) -> Any:
        told = await call(*args, **kwargs)
        undone()
        return told

    monkeypatch.setattr(store._crew, "call", cut_short)
    with pytest.raises(MemoryError):
        await store.open()
    await other.open()
    await store.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("lacking", ["dismiss", "discard", "close"])
async def test_a_store_whose_closing_lacks_memory_is_closed_then_or_by_closing_it_again(
    lacking: str, tmp_path: Path, other: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "runs")
    await store.open()
    await store.begin(1)
    match lacking:
        case "dismiss":
            monkeypatch.setattr(store._crew, "dismiss", Failing(store._crew.dismiss, 1, MemoryError))
            with pytest.raises(MemoryError):
                await store.aclose()
            assert store.is_open
        case "discard":
            monkeypatch.setattr(writing, "discard", Failing(writing.discard, 1, MemoryError))
        case _:
            monkeypatch.setattr(posix, "close_quietly", Failing(posix.close_quietly, 1, MemoryError))
    await store.aclose()
    await other.open()


@pytest.mark.asyncio
async def test_a_call_that_the_thread_never_came_to_does_not_keep_the_lock(
    tmp_path: Path, other: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "runs")
    await store.open()
    monkeypatch.setattr(store._crew, "_counted", Failing(store._crew._counted, 1, MemoryError))
    await store.aclose()
    await other.open()
