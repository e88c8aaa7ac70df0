"""``export`` and ``import``: plain files out of a checkpoint, and a checkpoint out of plain files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from async_ckpt import Saver
from async_ckpt.cli.safe_output import new_file
from tests.cli.command import flip, run, saved


def restored(directory: Path, step: int | None = None) -> Any:
    async def read() -> Any:
        async with Saver(directory) as saver:
            return (await saver.restore(step)).state

    return asyncio.run(read())


# -- export --------------------------------------------------------------------------------------


def test_an_export_opens_with_the_safetensors_package(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1, 2)
    out = tmp_path / "out.safetensors"
    done = run("export", tmp_path / "run", out)
    assert (done.code, done.err) == (0, "")
    assert "3 tensors of step 2" in done.out
    arrays = load_file(out)
    assert arrays.keys() == {"frozen/table", "model/w", "model/b"}
    assert arrays["frozen/table"].tolist() == list(range(2000))
    assert (arrays["model/w"] == 2).all()
    with safe_open(out, "np") as file:
        assert file.metadata()["step"] == "2"


def test_globs_choose_and_the_step_too(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1, 2)
    out = tmp_path / "out.safetensors"
    assert run("export", f"{tmp_path / 'run'}@1", "--only", "model/*", out).code == 0
    arrays = load_file(out)
    assert arrays.keys() == {"model/w", "model/b"}
    assert (arrays["model/w"] == 1).all()


@pytest.mark.parametrize("value", [np.zeros((0, 3)), np.array(1.5), np.zeros((2, 2), ml_dtypes.bfloat16)])
def test_odd_tensors_are_exported_too(tmp_path: Path, value: Any) -> None:
    saved(tmp_path / "run", 1, make=lambda _: {"x": value, "y": np.arange(5, dtype=np.int8)})
    out = tmp_path / "out.safetensors"
    assert run("export", tmp_path / "run", out).code == 0
    with safe_open(out, "np") as file:
        assert tuple(file.get_slice("x").get_shape()) == value.shape
    assert run("import", out, "--into", tmp_path / "back").code == 0
    back = restored(tmp_path / "back")["out"]
    assert back["x"].dtype == value.dtype
    assert back["x"].tobytes() == value.tobytes()
    assert back["y"].tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    done = run("export", tmp_path / "run", out)
    assert done.code == 2
    assert "--force" in done.err
    assert out.read_bytes() == b"precious"
    assert run("export", tmp_path / "run", out, "--force").code == 0
    assert load_file(out)


def test_a_damaged_byte_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1)
    flip(tmp_path / "run" / "step-00000001" / "model-00001-of-00001.safetensors")
    (tmp_path / "out").mkdir()
    done = run("export", tmp_path / "run", tmp_path / "out" / "x.safetensors")
    assert done.code == 1
    assert "is not what was saved" in done.err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_glob_that_chooses_nothing_and_a_place_that_is_none_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1)
    done = run("export", tmp_path / "run", "--only", "modle/*", tmp_path / "x")
    assert done.code == 2
    assert "'modle/*'" in done.err
    done = run("export", tmp_path / "run", tmp_path / "nowhere" / "x")
    assert done.code == 3
    assert "nowhere" in done.err


# -- import --------------------------------------------------------------------------------------


def test_files_of_several_kinds_become_one_checkpoint(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 3), np.float32), "enc/b": np.zeros(3)}, tmp_path / "model.safetensors")
    np.savez(tmp_path / "stats.npz", mean=np.arange(3), var=np.arange(4))
    np.save(tmp_path / "table.npy", np.eye(2))
    files = [tmp_path / name for name in ("model.safetensors", "stats.npz", "table.npy")]
    done = run("import", *files, "--into", tmp_path / "run", "--step", 12)
    assert (done.code, done.err) == (0, "")
    state = restored(tmp_path / "run", 12)
    assert state.keys() == {"model", "stats", "table"}
    assert state["model"]["w"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert state["model"]["enc"]["b"].shape == (3,)
    assert state["stats"]["var"].tolist() == [0, 1, 2, 3]
    assert state["table"]["table"].tolist() == [[1, 0], [0, 1]]
    assert run("verify", tmp_path / "run").code == 0
    shown = run("show", tmp_path / "run", "--json").json()
    assert shown["metadata"] == {"imported": ["model.safetensors", "stats.npz", "table.npy"]}


def test_the_parts_of_one_model_go_together(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": np.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    assert run("import", *sorted(tmp_path.glob("*.safetensors")), "--into", tmp_path / "run").code == 0
    assert restored(tmp_path / "run")["model"].keys() == {"a", "b"}


def test_a_torch_file_is_read_without_executing_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(3, dtype=torch.bfloat16), "epoch": 3}, tmp_path / "m.pt")
    assert run("import", tmp_path / "m.pt", "--into", tmp_path / "run").code == 0
    state = restored(tmp_path / "run")["m"]
    assert torch.equal(state["w"], torch.ones(3, dtype=torch.bfloat16))
    assert state["epoch"] == 3

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "canary",))

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    done = run("import", tmp_path / "evil.pt", "--into", tmp_path / "run", "--step", 1)
    assert done.code == 1
    assert "weights_only" in done.err
    assert not (tmp_path / "canary").exists()


def test_pickles_in_numpy_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    done = run("import", tmp_path / "x.npz", "--into", tmp_path / "run")
    assert done.code == 1
    assert "x.npz" in done.err
    assert not list((tmp_path / "run").glob("step-*"))


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.npy"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 10, b"PK\x03\x04rubbish"])
def test_what_is_no_such_file_is_named_and_nothing_is_saved(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run("import", tmp_path / name, "--into", tmp_path / "run")
    assert done.code == 1, done.err
    assert str(tmp_path / name) in done.err
    assert not list((tmp_path / "run").glob("step-*"))


def test_what_is_asked_for_wrongly_is_said(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "m.safetensors")
    save_file({"a": np.zeros(1), "a/b": np.zeros(1)}, tmp_path / "n.safetensors")
    (tmp_path / "m.txt").touch()
    run_dir = tmp_path / "run"
    assert run("import", tmp_path / "m.safetensors", "--into", run_dir).code == 0
    for words, code, said in (
        ((), 2, "required: FILE"),
        ((tmp_path / "m.txt", "--step", 1), 2, "its ending is none of"),
        ((tmp_path / "m.safetensors",), 2, "--step"),
        ((tmp_path / "m.safetensors", "--step", 0), 2, "step 0 already"),
        ((tmp_path / "m.safetensors", tmp_path / "m.safetensors", "--step", 1), 2, "the key 'm' already"),
        ((tmp_path / "n.safetensors", "--step", 1), 1, "lies below a tensor"),
        ((tmp_path / "gone.safetensors", "--step", 1), 3, "gone.safetensors"),
    ):
        done = run("import", *words, "--into", run_dir)
        assert (done.code, said in done.err) == (code, True), done
    assert [row["step"] for row in run("ls", run_dir, "--json").json()] == [0]


def test_a_place_for_an_export_that_is_none_is_said_in_the_words_of_who_named_it(tmp_path: Path) -> None:
    saved(tmp_path / "run", 1)
    done = run("export", tmp_path / "run", tmp_path, "--force")
    assert done.code == 2
    assert done.err == f"async-ckpt: {tmp_path} is a directory: name a file in it\n"
    done = run("export", tmp_path / "run", tmp_path / "nowhere" / "out")
    assert done.code == 3
    assert f"there is no directory {tmp_path / 'nowhere'}" in done.err


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(OSError, match="No space left") as caught,
        new_file(out, replace=False),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert caught.value.filename == str(out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [-1, 10**20])
def test_a_step_that_no_checkpoint_can_have_is_wrong_use_and_leaves_nothing(
    tmp_path: Path, step: int
) -> None:
    np.save(tmp_path / "w.npy", np.zeros(3))
    done = run("import", tmp_path / "w.npy", "--into", tmp_path / "run", f"--step={step}")
    assert done.code == 2
    assert done.err.startswith("async-ckpt: --step: ")
    assert not (tmp_path / "run").exists()
