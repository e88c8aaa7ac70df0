"""``prune``, ``pin`` and ``unpin``: what goes, what stays, and what refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from async_ckpt import Saver
from tests.cli.command import flip, run, saved


def steps(directory: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in directory.glob("step-*"))


def test_a_dry_run_says_what_a_real_one_then_deletes(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, 5)
    words = ("prune", tmp_path, "--keep-last", 2, "--json")
    dry = run(*words, "--dry-run")
    assert dry.code == 0
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    real = run(*words)
    assert steps(tmp_path) == [4, 5]
    assert dry.json() | {"dry_run": False} == real.json()
    assert (real.json()["deleted"], real.json()["kept"]) == ([1, 2, 3], [4, 5])
    assert real.json()["freed_bytes"] > 0


def test_rules_add_up(tmp_path: Path) -> None:
    losses = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.4, 5: 0.3, 6: 0.8, 7: 0.6}
    saved(tmp_path, *losses, metrics=lambda step: {"loss": losses[step], "a:b": -losses[step]})
    rules = ("--keep-last", 1, "--keep-best", "1:loss", "--keep-best", "1:loss:min", "--keep-every", 4)
    assert run("prune", tmp_path, *rules).code == 0
    assert steps(tmp_path) == [1, 2, 3, 4, 7]
    assert run("prune", tmp_path, "--keep-best", "1:a:b").code == 0
    assert steps(tmp_path) == [2, 7]


def test_what_is_pinned_or_damaged_stays(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4)
    flip(tmp_path / "step-00000002" / "manifest.json")
    assert run("pin", f"{tmp_path}@1").out == "step 1 is pinned\n"
    done = run("prune", tmp_path, "--keep-last", 1)
    assert done.code == 0
    assert "deleted step 3" in done.out
    assert steps(tmp_path) == [1, 2, 4]
    run("unpin", f"{tmp_path}@1")
    run("prune", tmp_path, "--keep-last", 1)
    assert steps(tmp_path) == [2, 4]


def test_shared_files_free_nothing_while_others_have_them(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, reuse_unchanged=True)
    first = run("ls", tmp_path, "--json").json()[-1]
    freed = run("prune", tmp_path, "--keep-last", 2, "--dry-run", "--json").json()["freed_bytes"]
    assert freed == first["bytes"] - first["reused_bytes"]


def test_pins_default_to_the_newest_and_can_be_set_beside_a_running_writer(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)

    async def beside() -> None:
        async with Saver(tmp_path) as saver:
            await saver.open()
            assert (await asyncio.to_thread(run, "pin", tmp_path)).out == "step 2 is pinned\n"
            locked = await asyncio.to_thread(run, "prune", tmp_path, "--keep-last", 1)
            assert locked.code == 3
            assert "wait until it has ended" in locked.err
            dry = await asyncio.to_thread(run, "prune", tmp_path, "--keep-last", 1, "--dry-run")
            assert "would delete step 1" in dry.out

    asyncio.run(beside())
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to keep"),
        (("--keep-last", 0), "--keep-last: needs at least 1"),
        (("--keep-last", "x"), "x"),
        (("--keep-every", -3), "--keep-every: needs at least 1"),
        (("--keep-best", "loss"), "N:METRIC"),
        (("--keep-best", "2:"), "N:METRIC"),
        (("--keep-best", "0:loss"), "--keep-best needs at least 1"),
        (("--keep-best", "1:lose"), "no checkpoint has the metric 'lose'; there is loss"),
        (("--keep-best", "1:loss:mn"), "no checkpoint has the metric 'loss:mn'"),
    ],
)
def test_rules_that_are_none_are_wrong_use_and_delete_nothing(
    tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    saved(tmp_path, 1, 2)
    done = run("prune", tmp_path, *words)
    assert done.code == 2
    assert said in done.err
    assert steps(tmp_path) == [1, 2]


def test_a_pin_needs_a_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    assert run("pin", f"{tmp_path}@5").code == 3
    assert run("unpin", f"{tmp_path}@5").code == 0


def test_a_metric_where_there_are_none_is_wrong_use_and_nothing_to_prune_is_fine(tmp_path: Path) -> None:
    assert run("prune", tmp_path, "--keep-best", "1:loss").code == 0
    saved(tmp_path, 1, 2, metrics=lambda _: {})
    done = run("prune", tmp_path, "--keep-best", "1:loss")
    assert done.code == 2
    assert "they have no metrics at all" in done.err
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("verify", "--all"),
        ("prune", "--keep-last", 1),
        ("stats",),
        ("watch", "--once", "--timeout", 0.01),
    ],
)
def test_what_is_for_a_whole_directory_refuses_one_checkpoint_of_it(
    tmp_path: Path, words: tuple[object, ...]
) -> None:
    saved(tmp_path, 1, 2)
    command, *rest = words
    done = run(command, f"{tmp_path}@2", *rest)
    assert (done.code, done.out) == (2, "")
    assert f"give {tmp_path}, without @" in done.err
    assert steps(tmp_path) == [1, 2]
