"""S3, S9, S10: names from a checkpoint open nothing elsewhere; keys of a state become no file names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from async_ckpt import DamagedCheckpointError, NoCheckpointError, Saver
from async_ckpt.storage.names import is_file_name, parse_step
from tests.reliability.hostile_bytes.watching import read_watched
from tests.reliability.inline import run_inline
from tests.saver.conftest import assert_same
from tests.saver.test_saver_damage import rewrite, three

FILE_NAMES = [
    "../outside",
    "../step-00000002/model-00001-of-00001.safetensors",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:x",
    ".",
    "..",
    "",
    ".hidden",
    "-rf",
    "x\0y",
    "x\n",
    "x ",
    "x.",
    "\uff0e\uff0e\uff0fx",
    "mode\u0301l.safetensors",
    "\u202egnp.safetensors",
    "x" * 256,
    "manifest.json",
    "report.json",
    "/proc/self/mem",
    "/dev/zero",
    "~root",
    "$HOME",
    "%2e%2e%2f",
]


@pytest.mark.parametrize("name", FILE_NAMES, ids=ascii)
def test_s3_a_file_name_that_leads_elsewhere_is_refused_before_anything_is_opened(
    tmp_path: Path, name: str
) -> None:
    run = tmp_path / "run"
    run_inline(three(run))
    rewrite(run, 3, lambda body: body["files"][0].update(name=name))

    async def read() -> None:
        async with Saver(run) as saver:
            for reading in (saver.restore(3), saver.verify(3), saver.restore(3, mmap=True)):
                with pytest.raises(DamagedCheckpointError, match="file name") as caught:
                    await reading
                assert len(str(caught.value)) < 1000
            assert [found.step for found in await saver.checkpoints()] == [1, 2]

    read_watched(run, read)


DIRECTORY_NAMES = [
    "step-1",
    "step-0000001",
    "step-000000001",
    "step- 0000001",
    "step-0000000 1",
    "step-+0000001",
    "step--0000001",
    "step-0000_001",
    "step-00000001\n",
    "step-00000001 ",
    "step-1e000007",
    "step-0x000001",
    "step-\uff10\uff10\uff10\uff10\uff10\uff10\uff10\uff11",
    "step-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
    "step-000000\u00b2\u00b2",
    "step-99999999999999999999",
    "step-00000000000000000001",
    "Step-00000001",
    "step_00000001",
    "step-00000001.tmp",
    "\ufeffstep-00000001",
    "1",
]


def test_s9_only_the_one_spelling_of_a_step_is_a_step(tmp_path: Path) -> None:
    run_inline(three(tmp_path))
    whole = tmp_path / "step-00000001"
    for name in DIRECTORY_NAMES:
        assert parse_step(name) is None
        (tmp_path / name).mkdir()
        for file in whole.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())

    async def read() -> None:
        async with Saver(tmp_path) as saver:
            assert [found.step for found in await saver.checkpoints()] == [1, 2, 3]
            with pytest.raises(NoCheckpointError):
                await saver.restore(99999999999)

    run_inline(read())
    assert parse_step("step-9999999999999999999") == 10**19 - 1
    assert parse_step("step-123456789") == 123456789


KEYS = [
    "../../outside",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".",
    "..",
    "...",
    ".hidden",
    "-rf",
    "CON",
    "con.txt",
    "nul",
    "model",
    "Model",
    "MODEL",
    "model.",
    "model ",
    " model",
    "manifest.json",
    "manifest",
    "report.json",
    "x" * 300,
    "x" * 300 + "y",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "ß",
    "ss",
    "\u212a",
    "k",
    "\u202egnp.exe",
    "\n",
    "\0",
    "\x1b[2J",
    "\U0001f4a5",
    "state-00001-of-00001.safetensors",
    "a-00001-of-00001",
]


def test_s10_keys_of_a_state_never_become_file_names(tmp_path: Path) -> None:
    run = tmp_path / "run"
    state = {key: {"w": np.full(3, float(number))} for number, key in enumerate(KEYS)}
    before = sorted(tmp_path.iterdir())

    async def save_and_restore() -> None:
        async with Saver(run) as saver:
            await saver.save(state, 1)
            assert_same(state, (await saver.restore()).state)
            await saver.verify(1)

    run_inline(save_and_restore())
    assert sorted(path for path in tmp_path.iterdir() if path != run) == before
    names = [file.name for file in (run / "step-00000001").iterdir()]
    assert all(is_file_name(name) for name in names)
    assert len({name.casefold() for name in names}) == len(names), "also where case does not count"
    assert len([name for name in names if name.endswith(".safetensors")]) == len(KEYS)
    assert max(map(len, names)) <= 255
