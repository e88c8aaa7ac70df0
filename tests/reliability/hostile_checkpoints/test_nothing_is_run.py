"""S1, S2, S4: a checkpoint is data. Nothing in it is unpickled, imported, called or unpacked."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

import async_ckpt
from async_ckpt import DamagedCheckpointError, RestoreError, Saver
from tests.reliability.hostile_bytes.damaging import quietly
from tests.reliability.hostile_bytes.watching import read_watched
from tests.reliability.inline import run_inline
from tests.saver.conftest import assert_same
from tests.saver.test_saver_damage import path, rewrite, state, three

FILES = ["manifest.json", "report.json", "model-00001-of-00001.safetensors"]


class Bomb:
    """What a pickle can be: a call of anything."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


async def read_by_every_way(directory: Path) -> int | None:
    """List, verify and restore; gives the step that was restored. Errors of ours are passed over."""
    async with Saver(directory) as saver:
        await saver.checkpoints()
        with contextlib.suppress(RestoreError):
            await saver.verify(3)
        try:
            restored = await saver.restore()
        except RestoreError:
            return None
        assert_same(state(restored.step), restored.state)
        return restored.step


def read_and_watch(directory: Path) -> int | None:
    with quietly():
        return read_watched(directory, lambda: read_by_every_way(directory))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_inline(three(tmp_path / "run"))
    run_inline(read_by_every_way(tmp_path / "run"))
    return tmp_path / "run"


@pytest.mark.parametrize("name", FILES)
def test_s1_a_pickle_in_place_of_any_file_is_not_loaded(run: Path, name: str) -> None:
    canary = run.parent / "canary"
    file = path(run, 3, name)
    bomb = pickle.dumps(Bomb(canary))
    size = file.stat().st_size if file.exists() else len(bomb)
    # As long as the file was, for its length is looked at first.
    file.write_bytes(bomb + b"\0" * (size - len(bomb)))
    assert read_and_watch(run) == (3 if name == "report.json" else 2)
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists(), "the bomb was a real one"


TREES = {
    "a class to be made": ["dataclass", "subprocess.Popen", "args", "true"],
    "a function to be called": ["node", "os.system", "command", "true"],
    "an object with a state": ["stateful", "builtins.eval", "1+1"],
    "a tuple's class": ["namedtuple", "__import__('os').abort", "a", 1],
    "a format string": ["dict", "{0.__class__.__mro__}", "%s%n"],
    "a dunder": ["dict", "__class__", ["dict", "__init__", ["dict", "__globals__", True]]],
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_s2_names_in_a_checkpoint_are_only_shown(run: Path, tree: Any) -> None:
    rewrite(run, 3, lambda body: body.update(tree=tree, tensors=[], files=[]))

    async def read() -> Any:
        async with Saver(run) as saver:
            return (await saver.restore(3)).state

    found = read_watched(run, read)
    if isinstance(found, dict):
        assert all(type(key) is str for key in found)
    else:
        assert type(found) in {str, tuple, list}


@pytest.mark.parametrize(
    "kind", ["torch.load", "os:system", "jax:eval", "numpy:object", "__main__:x", "pickle"]
)
def test_s2_a_kind_that_is_unknown_is_refused_by_its_name(run: Path, kind: str) -> None:
    def change(body: dict[str, Any]) -> None:
        body["tree"] = ["list", *(["array", number, kind] for number in range(len(body["tensors"])))]
        for tensor in body["tensors"]:
            tensor["kind"] = kind

    rewrite(run, 3, change)

    async def read() -> None:
        async with Saver(run) as saver:
            with pytest.raises(DamagedCheckpointError, match="kind"):
                await saver.restore(3)

    read_watched(run, read)


def test_s4_an_archive_behind_or_before_a_file_is_not_opened(run: Path) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("../../evil", "x")
    for name in FILES[::2]:
        whole = path(run, 3, name).read_bytes()
        for polyglot in (whole + memory.getvalue(), memory.getvalue() + whole, memory.getvalue()):
            path(run, 3, name).write_bytes(polyglot)
            assert read_and_watch(run) == 2
        path(run, 3, name).write_bytes(whole)
    assert read_and_watch(run) == 3


def test_s4_what_reads_checkpoints_knows_no_archives() -> None:
    """The command line may, to import what others have written; what a checkpoint goes through may not."""
    banned = {"bz2", "gzip", "lzma", "shutil", "tarfile", "zipfile", "zlib"}
    root = Path(async_ckpt.__file__).parent
    for file in root.rglob("*.py"):
        if "cli" in file.relative_to(root).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned.intersection(name.partition(".")[0] for name in names), file
