"""``ls``, ``show`` and ``verify``: what they say of intact and of damaged checkpoints, and how they end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from async_ckpt import Saver
from tests.cli.command import flip, run, saved


def model(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}" / "model-00001-of-00001.safetensors"


def test_ls_is_newest_first_with_age_size_metrics_and_state(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 30)
    done = run("ls", tmp_path)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["STEP", "AGE", "SIZE", "REUSED", "STATE", "METRICS"]
    assert [row.split()[0] for row in rows] == ["30", "2", "1"]
    assert all("valid" in row and "loss=" in row and "kB" in row for row in rows)


def test_ls_in_json_has_every_figure(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, reuse_unchanged=True)
    newest, oldest = run("ls", tmp_path, "--json").json()
    assert newest["step"] == 2
    assert newest["path"] == str(tmp_path / "step-00000002")
    assert newest["metrics"] == {"loss": 1 / 3}
    assert (newest["valid"], newest["reason"], newest["pinned"]) == (True, None, False)
    assert 0 <= newest["age_secs"] < 600
    sizes = {path.name: path.stat().st_size for path in Path(oldest["path"]).glob("*.safetensors")}
    assert newest["bytes"] == oldest["bytes"] == sum(sizes.values())
    assert newest["reused_bytes"] == oldest["reused_bytes"] == sizes["frozen-00001-of-00001.safetensors"]


def test_a_metric_that_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    saved(tmp_path, 1, metrics=lambda _: {"loss": float("nan")})
    assert run("ls", tmp_path, "--json").json()[0]["metrics"] == {"loss": None}
    assert "loss=nan" in run("ls", tmp_path).out


def test_ls_names_what_is_wrong_and_ends_with_1(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    model(tmp_path, 2).unlink()
    flip(tmp_path / "step-00000003" / "manifest.json")
    done = run("ls", tmp_path, "--json")
    assert done.code == 1
    assert [row["valid"] for row in done.json()] == [False, False, True]
    assert "manifest.json" in done.json()[0]["reason"]
    assert "model-00001" in done.json()[1]["reason"]
    assert done.json()[1]["bytes"] is None
    assert run("ls", tmp_path).out.count("damaged") == 2


def test_ls_shows_pins(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)

    async def pin() -> None:
        async with Saver(tmp_path) as saver:
            await saver.pin(1)

    asyncio.run(pin())
    assert [row["pinned"] for row in run("ls", tmp_path, "--json").json()] == [False, True]
    assert "pinned" in run("ls", tmp_path).out


def test_an_empty_directory_has_no_checkpoints_and_that_is_fine(tmp_path: Path) -> None:
    listed = run("ls", tmp_path)
    assert (listed.code, listed.out) == (0, "")
    assert listed.err == f"async-ckpt: {tmp_path} holds no checkpoint\n"
    assert run("ls", tmp_path, "--json").json() == []
    for command in ("show", "verify"):
        done = run(command, tmp_path)
        assert done.code == 3
        assert str(tmp_path) in done.err


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    before = sorted(path for path in tmp_path.rglob("*") if ".pins" not in path.parts)
    for command in ("ls", "show", "verify"):
        run(command, tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if ".pins" not in path.parts) == before
    assert not [path for path in (tmp_path / ".pins").rglob("*") if path.is_file()]


def test_show_has_tensors_groups_metrics_and_metadata(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    record = run("show", f"{tmp_path}@1", "--json").json()
    assert (record["step"], record["metrics"], record["metadata"]) == (1, {"loss": 0.5}, {"seed": 7})
    assert {(t["path"], t["dtype"], tuple(t["shape"]), t["bytes"]) for t in record["tensors"]} == {
        ("frozen/table", "I16", (2000,), 4000),
        ("model/w", "F32", (3, 4), 48),
        ("model/b", "F64", (4,), 32),
    }
    assert all(len(t["digest"]) == 32 for t in record["tensors"])
    assert [(g["group"], g["files"], g["tensors"]) for g in record["groups"]] == [
        ("frozen", 1, 1), ("model", 1, 2),
    ]  # fmt: skip
    assert sum(group["bytes"] for group in record["groups"]) == record["bytes"]
    plain = run("show", tmp_path).out
    assert "step 2" in plain
    tree = [line.split()[:3] for line in plain.splitlines() if line.startswith(("frozen/", "model/", "  "))]
    assert tree == [
        ["frozen/"], ["table", "I16", "2000"], ["model/"], ["w", "F32", "3x4"], ["b", "F64", "4"],
    ]  # fmt: skip


def test_show_takes_the_newest_valid_one(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    flip(tmp_path / "step-00000002" / "manifest.json")
    passing = run("show", tmp_path, "--json")
    assert passing.json()["step"] == 1
    assert passing.err.startswith("async-ckpt: step 2 is passed over: ")
    assert "manifest.json" in passing.err
    assert run("show", f"{tmp_path}@1").err == ""
    assert run("show", f"{tmp_path}@latest", "--json").json()["step"] == 1
    damaged = run("show", f"{tmp_path}@2")
    assert damaged.code == 1
    assert "manifest.json" in damaged.err
    flip(tmp_path / "step-00000001" / "manifest.json")
    none = run("show", tmp_path)
    assert none.code == 1
    assert "none of its 2 checkpoints is valid" in none.err


def test_verify_says_that_every_byte_is_there(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    done = run("verify", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("step 2: every byte")
    assert len(run("verify", tmp_path, "--all").out.splitlines()) == 2
    (record,) = run("verify", f"{tmp_path}@1", "--json").json()
    assert (record["step"], record["files"], record["damage"]) == (1, 2, [])


def test_verify_names_each_damaged_file_and_ends_with_1(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    step = tmp_path / "step-00000002"
    flip(model(tmp_path, 2))
    (step / "frozen-00001-of-00001.safetensors").write_bytes(b"short")
    done = run("verify", tmp_path)
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "model-00001-of-00001.safetensors: the tensor 'model/" in done.out
    assert "frozen-00001-of-00001.safetensors: 5 bytes instead of" in done.out
    (record,) = run("verify", tmp_path, "--json").json()
    assert sorted(Path(damage["path"]).name for damage in record["damage"]) == [
        "frozen-00001-of-00001.safetensors", "model-00001-of-00001.safetensors",
    ]  # fmt: skip
    assert run("verify", tmp_path, "--all").code == 1
    assert run("verify", f"{tmp_path}@1").code == 0


def test_verify_looks_at_the_newest_one_even_if_its_manifest_is_gone(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "manifest.json").write_bytes(b"")
    done = run("verify", tmp_path)
    assert done.code == 1
    assert "manifest.json" in done.out


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_a_directory_that_is_not_there_ends_with_3(tmp_path: Path, command: str) -> None:
    done = run(command, tmp_path / "nowhere")
    assert (done.code, done.out) == (3, "")
    assert done.err == f"async-ckpt: {tmp_path / 'nowhere'}: there is no such directory\n"
    file = tmp_path / "file"
    file.touch()
    assert run(command, file).err == f"async-ckpt: {file}: is not a directory\n"


@pytest.mark.parametrize("step", ["x", "-1", "1.5", "", "\uff11", "1" * 20])
def test_a_step_that_is_none_is_wrong_use(tmp_path: Path, step: str) -> None:
    done = run("show", f"{tmp_path}@{step}")
    assert done.code == 2
    assert "the step behind @" in done.err


def test_a_step_that_is_not_there_ends_with_3(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for command in ("show", "verify"):
        done = run(command, f"{tmp_path}@9")
        assert done.code == 3
        assert "no checkpoint of step 9" in done.err


def test_a_directory_with_an_at_sign_in_its_name_is_found(tmp_path: Path) -> None:
    saved(tmp_path / "run@3", 1)
    assert run("show", tmp_path / "run@3", "--json").json()["step"] == 1
    assert run("show", f"{tmp_path / 'run@3'}@1", "--json").json()["step"] == 1
