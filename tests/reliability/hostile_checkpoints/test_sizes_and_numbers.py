"""S6, S7, S8: sizes are judged before memory is asked for, and numbers are read by the letter."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import DamagedCheckpointError, Saver
from async_ckpt.storage.manifest import MANIFEST_LIMIT, REPORT_LIMIT, digest
from tests.reliability.hostile_bytes.damaging import quietly
from tests.reliability.hostile_bytes.watching import read_watched
from tests.reliability.inline import run_inline
from tests.saver.conftest import assert_same
from tests.saver.test_saver_damage import MODEL, path, rewrite, state, three

HUGE = 1 << 44


async def refused(directory: Path, match: str, step: int = 3) -> None:
    """Each way of reading refuses it, and the older one is taken."""
    async with Saver(directory) as saver:
        for reading in (saver.restore(step), saver.restore(step, mmap=True)):
            with pytest.raises(DamagedCheckpointError, match=match) as caught:
                await reading
            assert len(str(caught.value)) < 3000
        restored = await saver.restore()
        assert restored.step == step - 1
        assert_same(state(step - 1), restored.state)


def refused_in_bounds(directory: Path, match: str) -> None:
    with quietly():
        read_watched(directory, lambda: refused(directory, match))


@pytest.fixture
def run(place: Path) -> Path:
    run_inline(three(place / "run"))
    return place / "run"


@pytest.mark.parametrize("size", [MANIFEST_LIMIT + 1, HUGE])
def test_s6_a_manifest_beyond_its_limit_is_not_read(run: Path, size: int) -> None:
    os.truncate(path(run, 3, "manifest.json"), size)
    refused_in_bounds(run, "more than any such file has")


@pytest.mark.parametrize("size", [REPORT_LIMIT + 1, HUGE])
def test_s6_a_report_beyond_its_limit_is_not_read(run: Path, size: int) -> None:
    path(run, 3, "report.json").touch()
    os.truncate(path(run, 3, "report.json"), size)

    async def read() -> None:
        async with Saver(run) as saver:
            restored = await saver.restore()
            assert restored.step == 3
            assert isinstance(restored.report_error, DamagedCheckpointError)

    read_watched(run, read)


def test_s6_a_tensor_file_that_claims_to_be_huge_is_measured_first(run: Path) -> None:
    def change(body: dict[str, Any]) -> None:
        tensor = next(t for t in body["tensors"] if t["path"] == "model/w")
        grown = HUGE - tensor["bytes"]
        tensor["bytes"] += grown
        tensor["shape"] = [tensor["bytes"] // 8]
        for other in body["tensors"]:
            if other["file"] == tensor["file"] and other["offset"] > tensor["offset"]:
                other["offset"] += grown
        body["files"][tensor["file"]]["bytes"] += grown

    rewrite(run, 3, change)
    refused_in_bounds(run, "instead of")


def device(file: Path) -> None:
    try:
        os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("NOT TRIED HERE: making a device needs root")


def listening(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "the device of zeros": device,
    "a socket": listening,
    "a directory": Path.mkdir,
    "a link to the device of zeros": lambda file: file.symlink_to("/dev/zero"),
    "a link to the process's own memory": lambda file: file.symlink_to("/proc/self/mem"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", ["manifest.json", MODEL])
@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_s6_what_is_not_a_plain_file_is_neither_read_nor_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    run = tmp_path / "run"
    run_inline(three(run))
    path(run, 3, name).unlink()
    make(path(run, 3, name))
    refused_in_bounds(run, name)


BODIES = {
    "a key twice": (b'"metadata":["dict"]', b'"metadata":["dict"],"metadata":["dict"]'),
    "not a number": (b'"expects_report":false', b'"expects_report":NaN'),
    "infinity": (b'"created":', b'"created":1e999,"x":'),
    "a digit of another script": (b'"step":3', '"step":\uff13'.encode()),
    "a step that is true": (b'"step":3', b'"step":true'),
    "a step with a sign": (b'"step":3', b'"step":-3'),
    "a step that is a float": (b'"step":3', b'"step":3.0'),
    "a step beyond 2^53": (b'"step":3', b'"step":9007199254740993'),
    "5000 digits": (b'"step":3', b'"step":' + b"3" * 5000),
    "half a character": (b'"metadata":["dict"]', b'"metadata":["dict","a","\\ud800"]'),
    "not Unicode": (b'"metadata":["dict"]', b'"metadata":["dict","a","\xff"]'),
    "100,000 levels": (b'"metadata":["dict"]', b'"metadata":' + b"[" * 100_000 + b"]" * 100_000),
    "a header of no bytes": (b'"header_bytes":4096', b'"header_bytes":0'),
    "an offset before the file": (b'"offset":4096', b'"offset":-4096'),
}


@pytest.mark.parametrize("case", BODIES)
def test_s7_json_that_two_readers_could_read_differently_is_refused(tmp_path: Path, case: str) -> None:
    """More of them: ``tests/storage/test_manifest_bytes.py`` and ``test_safetensors_header.py``."""
    run = tmp_path / "run"
    run_inline(three(run))
    file = path(run, 3, "manifest.json")
    body = json.loads(file.read_bytes())["body"]
    raw = json.dumps(body, separators=(",", ":")).encode()
    old, new = BODIES[case]
    assert old in raw
    raw = raw.replace(old, new, 1)
    file.write_bytes(b'{"xxh3_128":"' + digest(raw).encode() + b'","body":' + raw + b"}\n")
    refused_in_bounds(run, r"manifest\.json")


SHAPES = {
    "numpy's product of it is 0": [2**62, 8],
    "2^106 elements": [2**53, 2**53],
    "64 dimensions of 2^53": [2**53] * 64,
    "65 dimensions": [1] * 65,
    "no elements, and too many for numpy": [2**53, 2**53, 0],
    "less than none": [-1, -40],
    "a float": [5.0],
    "true": [True, 5],
    "text": ["5"],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_s8_shapes_are_multiplied_without_wrapping(tmp_path: Path, shape: list[Any]) -> None:
    run = tmp_path / "run"

    async def save() -> None:
        async with Saver(run) as saver:
            for step in (2, 3):
                await saver.save({"w": np.empty((0, 3), np.float64) if step == 3 else np.ones(5)}, step)

    run_inline(save())
    rewrite(run, 3, lambda body: body["tensors"][0].update(shape=shape))

    async def read() -> None:
        async with Saver(run) as saver:
            for reading in (saver.restore(3), saver.restore(3, mmap=True)):
                with pytest.raises(DamagedCheckpointError, match="step-00000003"):
                    await reading
            assert (await saver.restore()).step == 2

    with quietly():
        read_watched(run, read)
