"""A commit that is cut short where nobody foresaw it takes no older checkpoint with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_ckpt.storage import posix
from async_ckpt.storage.local import LocalStore
from tests.storage.disk_saving import Failing, load, names, save


@pytest.mark.asyncio
@pytest.mark.parametrize("after", [False, True])
async def test_an_exchange_that_is_cut_short_keeps_both_or_the_old_one(
    *, after: bool, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 2, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(posix, "exchange", Failing(posix.exchange, 1, MemoryError, after=after))
        with pytest.raises(MemoryError):
            await save(store, 2, b"new")
    assert await load(store, 2) == (b"new" if after else b"old")
    kept = [Path(store.location) / name / "x.safetensors" for name in names(store.location, ".tmp-")]
    # The exchange may not survive a power cut, and then the name is that of the new one.
    assert [path.read_bytes() for path in kept] == ([b"old"] if after else [])
    await store.aclose()
    await store.open()
    assert names(store.location) == [".lock", "step-00000002"]


@pytest.mark.asyncio
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])
async def test_the_long_way_cut_short_puts_the_old_one_back_unless_there_is_the_new_one(
    *, at: int, after: bool, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(store, 2, b"old")
    monkeypatch.setattr(posix, "exchange", lambda *_: False)
    with monkeypatch.context() as patched:
        patched.setattr(posix, "rename", Failing(posix.rename, at, MemoryError, after=after))
        with pytest.raises(MemoryError):
            await save(store, 2, b"new")
    assert await load(store, 2) == (b"new" if (at, after) == (2, True) else b"old")
    assert names(store.location, ".tmp-") == []


@pytest.mark.asyncio
async def test_an_attempt_that_lacked_memory_at_its_first_line_leaves_no_directory(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "open_directory", Failing(posix.open_directory, 1, MemoryError))
    with pytest.raises(MemoryError):
        await store.begin(1)
    assert names(store.location) == [".lock"]
