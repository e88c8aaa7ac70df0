"""Damaged, foreign and newer checkpoints: found, named, passed over, never counted."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.errors import (
    DamagedCheckpointError,
    FormatVersionError,
    NoCheckpointError,
    RestoreError,
    StructureMismatchError,
)
from async_ckpt.saver import Saver
from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.manifest import decode_manifest, digest, encode_manifest
from async_ckpt.storage.memory import MemoryStore
from async_ckpt.storage.ranges import Range
from async_ckpt.storage.records import Manifest

from .conftest import Faults, assert_same

pytestmark = pytest.mark.asyncio

LARGE = 1 << 17
MODEL = "model-00001-of-00001.safetensors"
FILES = [MODEL, "optimizer-00001-of-00001.safetensors", "manifest.json"]


def state(value: float) -> dict[str, Any]:
    """A tensor that is read by itself, and small ones that are read together."""
    return {
        "model": {"w": np.full(LARGE, value), "b": np.full(5, value), "c": np.full(7, value, np.float32)},
        "optimizer": {"m": np.full(3, value)},
    }


async def three(directory: Path) -> None:
    async with Saver(directory) as saver:
        for step in (1, 2, 3):
            await saver.save(state(step), step)


def path(directory: Path, step: int, name: str) -> Path:
    return directory / f"step-{step:08d}" / name


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def rewrite(directory: Path, step: int, change: Any) -> None:
    """Change a manifest and seal it again, as somebody hostile would."""
    file = path(directory, step, "manifest.json")
    body = json.loads(file.read_bytes())["body"]
    change(body)
    raw = json.dumps(body, separators=(",", ":")).encode()
    file.write_bytes(b'{"xxh3_128":"' + digest(raw).encode() + b'","body":' + raw + b"}\n")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["first", "header", "data", "last"])
async def test_one_flipped_bit_anywhere_is_found(tmp_path: Path, name: str, where: str) -> None:
    await three(tmp_path)
    file = path(tmp_path, 3, name)
    flip(file, {"first": 0, "header": 40, "data": -9, "last": -1}[where])
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=name) as caught:
            await saver.verify(3)
        assert caught.value.path == str(file)
        assert caught.value.step == 3
        if name != "manifest.json" and where in ("first", "header"):
            # Restoring goes by the manifest and reads no headers; other readers of the file would.
            return
        with pytest.raises(DamagedCheckpointError, match=name):
            await saver.restore(3)
        restored = await saver.restore()
        assert restored.step == 2
        assert [(item.step, type(item.reason)) for item in restored.skipped] == [(3, DamagedCheckpointError)]
        assert_same(state(2), restored.state)


@pytest.mark.parametrize("cut", [0, 100, 5000, -1])
async def test_a_truncated_tensor_file_is_no_checkpoint(tmp_path: Path, cut: int) -> None:
    await three(tmp_path)
    file = path(tmp_path, 3, MODEL)
    file.write_bytes(file.read_bytes()[:cut])
    async with Saver(tmp_path, max_to_keep=2) as saver:
        assert [c.step for c in await saver.checkpoints()] == [1, 2]
        with pytest.raises(DamagedCheckpointError, match=f"{MODEL}.* instead of"):
            await saver.restore(3)
        with pytest.raises(DamagedCheckpointError, match=MODEL):
            await saver.verify(3)
        assert (await saver.restore()).step == 2
        # Damaged ones neither count nor go.
        assert await saver.prune() == []
        assert file.exists()


@pytest.mark.parametrize("name", FILES)
async def test_a_missing_file_is_damage(tmp_path: Path, name: str) -> None:
    await three(tmp_path)
    path(tmp_path, 3, name).unlink()
    async with Saver(tmp_path) as saver:
        assert [c.step for c in await saver.checkpoints()] == [1, 2]
        with pytest.raises(DamagedCheckpointError, match=name):
            await saver.restore(3)
        assert (await saver.restore()).step == 2


async def test_the_reasons_are_given_newest_first_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await three(tmp_path)
    flip(path(tmp_path, 3, MODEL), -1)
    path(tmp_path, 2, "manifest.json").write_bytes(b"")
    async with Saver(tmp_path) as saver:
        restored = await saver.restore()
    assert restored.step == 1
    assert [item.step for item in restored.skipped] == [3, 2]
    assert "checkpoint 3" in caplog.text
    assert "checkpoint 2" in caplog.text


async def test_when_none_is_valid_it_fails_loudly_with_every_reason(tmp_path: Path) -> None:
    await three(tmp_path)
    for step in (1, 2, 3):
        flip(path(tmp_path, step, "manifest.json"), 20)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=r"step 3.*step 2.*step 1") as caught:
            await saver.restore()
        assert isinstance(caught.value.__cause__, DamagedCheckpointError)
        assert await saver.checkpoints() == []


async def test_a_newer_format_is_passed_over_with_its_reason_and_raised_when_asked_for(
    tmp_path: Path,
) -> None:
    await three(tmp_path)
    rewrite(tmp_path, 3, lambda body: body.update(version=2, fancy=True))
    async with Saver(tmp_path) as saver:
        with pytest.raises(FormatVersionError, match="format 2") as caught:
            await saver.restore(3)
        assert caught.value.step == 3
        restored = await saver.restore()
        assert restored.step == 2
        assert isinstance(restored.skipped[0].reason, FormatVersionError)
        for step in (1, 2):
            rewrite(tmp_path, step, lambda body: body.update(version=9))
        with pytest.raises(FormatVersionError, match=r"step 3.*step 2.*step 1"):
            await saver.restore()


async def test_parts_of_one_step_never_load_in_another(tmp_path: Path) -> None:
    await three(tmp_path)
    path(tmp_path, 3, MODEL).write_bytes(path(tmp_path, 2, MODEL).read_bytes())
    path(tmp_path, 1, "manifest.json").write_bytes(path(tmp_path, 2, "manifest.json").read_bytes())
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match=MODEL):
            await saver.restore(3)
        with pytest.raises(DamagedCheckpointError, match="step 2"):
            await saver.restore(1)


HOSTILE = {
    "metadata that is no table": lambda body: body.update(metadata=3),
    "metadata that is nothing": lambda body: body.update(metadata=["call", "os.system"]),
    "metrics of text": lambda body: body.update(metrics=["dict", "loss", "low"]),
    "metrics that are no table": lambda body: body.update(metrics=["list"]),
    "a listener's state that is nothing": lambda body: body.update(listeners={"a": ["import", "os"]}),
    "a tree that uses a leaf twice": lambda body: body.update(
        tree=["list", ["array", 0, "numpy"], ["array", 0, "numpy"]]
    ),
    "a tree without its leaves": lambda body: body.update(tree=["dict"]),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
async def test_a_manifest_that_is_sealed_and_makes_no_sense_is_damage(tmp_path: Path, change: Any) -> None:
    await three(tmp_path)
    rewrite(tmp_path, 3, change)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="step-00000003") as caught:
            await saver.restore(3)
        assert caught.value.step == 3
        assert (await saver.restore()).step == 2
        live = state(0)
        assert (await saver.restore(into=live)).step == 2
        assert_same(state(2), live)


async def test_a_tree_that_asks_for_the_wrong_kind_is_damage(tmp_path: Path) -> None:
    await three(tmp_path)
    kinds = (["array", i, "bytes" if i == 0 else "numpy"] for i in range(4))
    rewrite(tmp_path, 3, lambda body: body.update(tree=["list", *kinds]))
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="step-00000003"):
            await saver.restore(3)
        assert (await saver.restore()).step == 2


async def test_into_arrays_may_be_overwritten_and_the_error_says_so(tmp_path: Path) -> None:
    await three(tmp_path)
    flip(path(tmp_path, 3, "optimizer-00001-of-00001.safetensors"), -1)
    live = state(0)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError, match="may have been overwritten") as caught:
            await saver.restore(3, into=live)
        assert caught.value.step == 3
        assert str(caught.value.path).endswith("optimizer-00001-of-00001.safetensors")
        assert live["model"]["w"][0] == 3.0
        # The fallback overwrites every leaf again.
        restored = await saver.restore(into=live)
        assert restored.step == 2
        assert_same(state(2), live)


async def test_nothing_is_said_of_arrays_that_were_not_touched(tmp_path: Path) -> None:
    await three(tmp_path)
    path(tmp_path, 3, "manifest.json").write_bytes(b"x")
    live = state(0)
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError) as caught:
            await saver.restore(3, into=live)
    assert "overwritten" not in str(caught.value)
    assert_same(state(0), live)


async def test_small_tensors_are_judged_before_they_are_handed_over(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save({"model": {"a": np.ones(5), "b": np.ones(5)}}, 1)
    flip(path(tmp_path, 1, MODEL), 4096)
    live = {"model": {"a": np.zeros(5), "b": np.zeros(5)}}
    async with Saver(tmp_path) as saver:
        with pytest.raises(DamagedCheckpointError) as caught:
            await saver.restore(into=live)
    assert "overwritten" not in str(caught.value)
    assert live["model"]["a"].sum() == 0


async def test_a_fallback_that_lacks_an_overwritten_array_is_refused(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save({"model": {"w": np.full(LARGE, 1.0)}}, 1)
        await saver.save(
            {"model": {"w": np.full(LARGE, 2.0), "v": np.full(LARGE, 2.0)}, "z": {"m": np.ones(3)}}, 2
        )
        flip(path(tmp_path, 2, "z-00001-of-00001.safetensors"), -1)
        live = {"model": {"w": np.zeros(LARGE), "v": np.zeros(LARGE)}, "z": {"m": np.zeros(3)}}
        with pytest.raises(StructureMismatchError, match="overwritten") as caught:
            await saver.restore(into=live, strict=False)
        assert caught.value.missing == ("model/v",)
        with pytest.raises(StructureMismatchError, match="overwritten"):
            await saver.restore(into=live)


async def test_every_one_damaged_after_arrays_were_touched_says_so(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        await saver.save(state(1), 1)
        flip(path(tmp_path, 1, "optimizer-00001-of-00001.safetensors"), -1)
        with pytest.raises(DamagedCheckpointError, match="overwritten"):
            await saver.restore(into=state(0))


async def test_a_reason_that_says_nothing_about_the_bytes_is_no_damage(
    memory: MemoryStore, faults: Faults
) -> None:
    """Out of descriptors on the newest is no reason to fall back to an older one, or to delete any."""
    async with Saver(memory, max_to_keep=1) as saver:
        await saver.save(state(1), 1)
        faults.fail("read", OSError(errno.EMFILE, "Too many open files"))
        for call in (saver.restore(), saver.restore(1), saver.checkpoints(), saver.prune(), saver.verify(1)):
            with pytest.raises(RestoreError, match="Too many open files") as caught:
                await call
            assert type(caught.value) is RestoreError


async def test_a_read_that_fails_half_way_is_damage(memory: MemoryStore, faults: Faults) -> None:
    async with Saver(memory) as saver:
        await saver.save(state(1), 1)
        await saver.save(state(2), 2)
        faults.fail("read_ranges", OSError(errno.EIO, "Input/output error"))
        for call in (saver.restore(2), saver.verify(2)):
            with pytest.raises(DamagedCheckpointError, match="Input/output error"):
                await call


async def test_a_checkpoint_that_vanishes_while_it_is_looked_at_is_not_there(tmp_path: Path) -> None:
    class Racing(LocalStore):
        async def steps(self) -> list[int]:
            return [*await super().steps(), 9]

    async with Saver(Racing(tmp_path)) as saver:
        with pytest.raises(NoCheckpointError):
            await saver.restore()
        await saver.save(state(1), 1)
        assert [c.step for c in await saver.checkpoints()] == [1]
        assert (await saver.restore()).skipped == ()


async def test_a_manifest_changed_behind_the_savers_back_is_read_again(tmp_path: Path) -> None:
    await three(tmp_path)
    async with Saver(tmp_path) as saver:
        assert [c.step for c in await saver.checkpoints()] == [1, 2, 3]
        flip(path(tmp_path, 2, "manifest.json"), -10)
        assert [c.step for c in await saver.checkpoints()] == [1, 3]
        rewrite(tmp_path, 3, lambda body: body.update(metadata=["dict", "a", 1]))
        assert (await saver.checkpoints())[-1].metadata == {"a": 1}


async def test_a_checkpoint_is_leased_while_it_is_read(tmp_path: Path) -> None:
    seen: list[set[int]] = []

    class Watching(LocalStore):
        async def read_ranges(self, step: int, ranges: Sequence[Range]) -> None:
            seen.append(await self.pinned())
            assert not await self.remove(step)
            await super().read_ranges(step, ranges)

    async with Saver(Watching(tmp_path)) as saver:
        await saver.save(state(1), 1)
        await saver.restore()
        await saver.verify(1)
        assert seen
        assert all(leased == {1} for leased in seen)
        assert await saver._store.pinned() == set()


async def test_the_manifest_covers_every_byte(tmp_path: Path) -> None:
    await three(tmp_path)
    manifest: Manifest = decode_manifest(path(tmp_path, 3, "manifest.json").read_bytes())
    assert encode_manifest(manifest) == path(tmp_path, 3, "manifest.json").read_bytes()
    for number, file in enumerate(manifest.files):
        tensors = [t.bytes for t in manifest.tensors if t.file == number]
        assert file.header_bytes + sum(tensors) == file.bytes == path(tmp_path, 3, file.name).stat().st_size
