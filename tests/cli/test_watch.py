"""``watch``: a line for each new checkpoint, and a command run for it, one at a time."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.cli.command import run, saved


def python(code: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {{path}} {{step}}"


def test_the_newest_one_is_a_line(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    done = run("watch", tmp_path, "--once")
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    assert line.startswith("step 2 ")
    assert str(tmp_path / "step-00000002") in line
    assert "loss=0.333333" in line


def test_in_json_each_line_is_one_object(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (line,) = run("watch", tmp_path, "--json", "--timeout", 0.01).out.splitlines()
    record = json.loads(line)
    assert (record["step"], record["metrics"]) == (1, {"loss": 0.5})


def test_a_command_gets_path_and_step_and_the_checkpoint_stays_while_it_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "run", 7)
    code = (
        "import os, sys; path, step = sys.argv[1:]; leases = os.listdir(os.path.dirname(path) + '/.pins');"
        "open(sys.argv[1] + '/../../seen', 'w').write(f'{path} {step} {len(leases)}')"
    )
    done = run("watch", tmp_path / "run", "--once", "--exec", python(code))
    assert done.code == 0, capfd.readouterr()
    assert (tmp_path / "seen").read_text() == f"{tmp_path}/run/step-00000007 7 1"


def test_a_command_that_fails_is_said_and_ends_with_1(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    done = run("watch", tmp_path, "--once", "--exec", python("raise SystemExit(5)"))
    assert done.code == 1
    assert "step 1" in done.err
    assert "ended with 5" in done.err


def test_words_are_no_shell(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    canary = tmp_path / "canary"
    run("watch", tmp_path, "--once", "--exec", f"true; touch {canary}")
    assert not canary.exists()


def test_none_in_time_ends_with_3(tmp_path: Path) -> None:
    done = run("watch", tmp_path / "later", "--timeout", 0.01)
    assert (done.code, done.out) == (3, "")
    assert "no checkpoint came within 0.01 s" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--exec", ""), "needs a command"),
        (("--exec", "'half"), "quotation"),
        (("--timeout", -1), "at least 0"),
        (("--min-interval", "nan"), "at least 0"),
    ],
)
def test_wrong_use(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    done = run("watch", tmp_path, *words)
    assert done.code == 2
    assert said in done.err


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    done = run("watch", tmp_path, "--exec", "no-such-command-anywhere {step}")
    assert done.code == 2
    assert "no-such-command-anywhere: No such file" in done.err
