"""An operator's evening in real terminals, with the real command and a real run beside it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytest.importorskip("sklearn")
pytest.importorskip("rich")

from tests.cli.command import flip
from tests.cli.terminal import Terminal, terminal

COLOURED = re.compile(r"\x1b\[[0-9;]*m")


def finished(*words: object, code: int = 0, **environment: str) -> Terminal:
    """Run a command to its end in a terminal, and look at its exit code."""
    with terminal(*words, **environment) as screen:
        ended = screen.read_to_the_end()
    assert ended == code, screen.text
    assert "Traceback" not in screen.text
    return screen


def steps_of(screen: Terminal) -> list[int]:
    return [int(step) for step in re.findall(r"^\s*(\d+)\s+[\d.]+ (?:s|min)\s", screen.text, re.MULTILINE)]


@pytest.mark.timeout(300)
def test_a_run_is_watched_killed_judged_compared_pruned_and_exported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        "--hidden",
        "32",
        "--stop-at",
        "0",
        "--step-ms",
        "2",
        "--steps",
        "1000000",
        "--save-steps",
        "10",
    )
    seen = tmp_path / "seen"
    seen.touch()
    with terminal("demo", "--dir", run, *options) as demo:
        demo.read_until(r"durable in")
        evaluate = f"sh -c 'test -s {{path}}/manifest.json && echo {{step}} >> {seen}'"
        with terminal("watch", run, "--exec", evaluate) as watch:
            watch.read_until(r"(?s)step \d+ .*step \d+ .*step \d+ ")
            os.kill(watch.pid, signal.SIGINT)
            assert watch.read_to_the_end() == 130
            assert "Traceback" not in watch.text

        # Fifty saves a second delete what a slow machine is about to list.
        os.kill(demo.pid, signal.SIGSTOP)
        listed = finished("ls", run)
        assert COLOURED.search(listed.raw)
        steps = steps_of(listed)
        assert steps == sorted(steps, reverse=True)
        assert len(steps) >= 3
        assert "accuracy=" in listed.text
        locked = finished("prune", run, "--keep-last", 1, code=3)
        assert "another" in locked.text
        os.kill(demo.pid, signal.SIGKILL)
        demo.process.wait()
    told = [int(line) for line in seen.read_text().split()]
    assert told == sorted(set(told))
    assert told

    intact = finished("verify", run, "--all")
    assert intact.text.count("every byte is what was saved") >= 3
    newest, second, *older = steps_of(finished("ls", run))
    flip(run / f"step-{newest:08d}" / "model-00001-of-00001.safetensors")
    damaged = finished("verify", run, code=1)
    assert "model-00001-of-00001.safetensors" in re.sub(r"\s", "", damaged.text)
    finished("verify", f"{run}@{second}")

    compared = finished("diff", f"{run}@{older[-1]}", f"{run}@{second}", code=1)
    assert re.search(r"model/w1\s+changed\s+F32 64x32", compared.text)
    same = finished("diff", f"{run}@{second}", f"{run}@{second}")
    assert "identical groups: model, optimizer, data" in same.text

    finished("pin", f"{run}@{older[-1]}")
    rules = ("--keep-last", 1, "--keep-best", "1:accuracy")
    dry = finished("prune", run, *rules, "--dry-run")
    assert len(steps_of(finished("ls", run))) == 2 + len(older)
    pruned = finished("prune", run, *rules)
    assert dry.text.replace("would delete", "deleted") == pruned.text
    left = steps_of(finished("ls", run))
    assert {newest, older[-1]} <= set(left)
    assert "pinned" in finished("ls", run).text

    out = tmp_path / "model.safetensors"
    finished("export", f"{run}@{older[-1]}", "--only", "model/*", out)
    arrays = load_file(out)
    assert arrays["model/w1"].shape == (64, 32)
    assert len(arrays) == 6

    summed = finished("stats", run)
    assert "1 session, 0 of them resumed, 0 ended in order" in summed.text
    assert "evaluator.after_save" in summed.text


def test_no_color_means_no_colours(tmp_path: Path) -> None:
    from tests.cli.command import saved

    saved(tmp_path, 1, 2)
    assert COLOURED.search(finished("ls", tmp_path).raw)
    bare = finished("ls", tmp_path, NO_COLOR="1").raw
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", bare)


def test_long_work_shows_a_bar_with_bytes_and_rate(tmp_path: Path) -> None:
    import numpy as np

    from tests.cli.command import saved

    saved(tmp_path, 1, make=lambda _: {f"g{n}": np.zeros(4_000_000) for n in range(4)})
    screen = finished("verify", tmp_path)
    assert re.search(r"step 1 .*[\d.]+/[\d.]+ MB", screen.text)
    assert "every byte is what was saved (1 file, 128 MB)" in screen.text


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.cli.command import saved

    saved(tmp_path, *range(1, 40))
    with subprocess.Popen(
        [sys.executable, "-m", "async_ckpt", "ls", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["--version"], ["numpy", "rich", "asyncio", "msgspec", "shtab", "async_ckpt.saver"]),
        (
            ["--help"],
            ["numpy", "rich", "asyncio", "msgspec", "shtab", "importlib.metadata", "async_ckpt.saver"],
        ),
        (["ls"], ["numpy", "rich", "shtab", "async_ckpt.saver.saver", "async_ckpt.session", "optree"]),
    ],
)
def test_commands_start_without_what_they_do_not_need(
    tmp_path: Path, words: list[str], without: list[str]
) -> None:
    import subprocess
    import sys

    words = [*words, str(tmp_path)] if words == ["ls"] else words
    code = (
        f"import sys; from async_ckpt.cli import main; main({words!r});"
        f"print([name for name in {without!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
