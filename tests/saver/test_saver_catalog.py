"""What a saver has written it need not decode again; what lies on the disk is judged all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.saver import Saver, catalog
from async_ckpt.saver.catalog import Catalog
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.manifest import digest
from async_ckpt.storage.names import MANIFEST, step_name
from async_ckpt.system.threads import Worker


class Written:
    """A directory with the checkpoints of steps 3 and 4, and what it takes to look into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = LocalStore(directory)
        self.worker = Worker("test-catalog")

    def catalog(self) -> Catalog:
        return Catalog(self.store, self.worker)

    async def told(self) -> Catalog:
        """One that was told of step 3 and has read nothing."""
        manifest = await self.catalog().manifest(3)
        known = self.catalog()
        known.remember(
            digest((self.directory / step_name(3) / MANIFEST).read_bytes()),
            step=3,
            files=manifest.files,
            created=manifest.created,
            expects_report=manifest.expects_report,
            metrics=manifest.metrics,
            metadata=manifest.metadata,
        )
        return known


@pytest_asyncio.fixture
async def written(tmp_path: Path) -> AsyncIterator[Written]:
    async with Saver(tmp_path, max_to_keep=None) as saver:
        await saver.save({"w": np.arange(3)}, 3, metrics={"loss": 0.5}, metadata={"by": "a test"})
        await saver.save({"w": np.arange(3)}, 4)
    made = Written(tmp_path)
    yield made
    await made.store.aclose()
    made.worker.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("at_once", [0, 2**20])
async def test_what_was_told_is_what_would_be_read(
    written: Written, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a manifest was decoded")

    monkeypatch.setattr(catalog, "_AT_ONCE", at_once)
    read = await written.catalog().entry(3)
    known = await written.told()
    monkeypatch.setattr(catalog, "decode_manifest", refuse)
    assert await known.entry(3) == read
    assert read.metrics == {"loss": 0.5}
    with pytest.raises(AssertionError, match="decoded"):
        await known.entry(4)


@pytest.mark.asyncio
async def test_other_bytes_than_those_told_of_are_judged_anew(written: Written) -> None:
    known = await written.told()
    file = written.directory / step_name(3) / MANIFEST
    file.write_bytes(file.read_bytes().replace(b"a test", b"a tess"))
    with pytest.raises(DamagedCheckpointError, match="do not match its digest"):
        await known.entry(3)


@pytest.mark.asyncio
async def test_files_are_looked_at_also_when_the_manifest_is_known(written: Written) -> None:
    known = await written.told()
    [file] = (written.directory / step_name(3)).glob("*.safetensors")
    with file.open("ab") as longer:
        longer.write(b"\0")
    with pytest.raises(DamagedCheckpointError, match="instead of"):
        await known.entry(3)
    file.unlink()
    with pytest.raises(DamagedCheckpointError, match=file.name):
        await known.entry(3)


@pytest.mark.asyncio
async def test_metadata_that_is_no_table_is_damage(written: Written) -> None:
    known = written.catalog()
    with pytest.raises(DamagedCheckpointError, match="not a table"):
        known.remember(
            "0" * 32, step=3, files=(), created=0.0, expects_report=False, metrics=["dict"], metadata=1
        )
