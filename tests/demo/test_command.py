"""The command line: what it refuses, in one line, and with which code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")

from async_ckpt.cli import main
from tests.demo.lives import small

SMALL = small(hidden=8, steps=4, save_steps=2)
OTHER = small(hidden=9, steps=4, save_steps=2)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and the one line on standard error."""
    code = main(["demo", *words])
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("async-ckpt: ")
    assert "Traceback" not in captured.err
    return code, captured.err


def test_help_and_version_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["demo", "--help"]) == main(["--version"]) == main([]) == 0
    shown = capsys.readouterr().out
    for option in ("--dir", "--hidden", "--steps", "--save-steps", "--stop-at", "--fresh", "--plain"):
        assert option in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hiden", "3"], "--hidden"),
        (["--hidden", "0"], "--hidden"),
        (["--steps", "x"], "--steps"),
        (["--save-steps", "-1"], "--save-steps"),
        (["--stop-at", "97"], "--stop-at"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--stop-at", "nan"], "--stop-at"),
        (["--step-ms", "nan"], "--step-ms"),
        (["--seed", "-3"], "--seed"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, line = refused(capsys, *words)
    assert code == 2
    assert said in line


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dmeo"]) == 2
    assert 'Did you mean "demo"?' in capsys.readouterr().err


def test_a_directory_that_is_a_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    code, line = refused(capsys, *SMALL, "--dir", str(file))
    assert code == 3
    assert str(file) in line
    assert file.read_bytes() == b"precious"


def test_a_run_of_another_shape_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["demo", *SMALL, "--dir", str(tmp_path)]) == 0
    before = sorted(path.name for path in tmp_path.glob("step-*"))
    capsys.readouterr()
    code, line = refused(capsys, *OTHER, "--dir", str(tmp_path))
    assert code == 2
    assert str(tmp_path) in line
    assert "--fresh" in line
    assert sorted(path.name for path in tmp_path.glob("step-*")) == before
    assert main(["demo", *OTHER, "--dir", str(tmp_path), "--fresh"]) == 0


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "async_ckpt", "demo", "--debug", "--hidden", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(("Traceback", "  + Exception Group Traceback"))
    assert done.stderr.splitlines()[-1].startswith("async-ckpt: ")


@pytest.mark.parametrize(("module", "extra"), [("sklearn", "demo"), ("threadpoolctl", "demo")])
def test_without_the_extra_it_says_what_to_install(module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from async_ckpt.cli import main; sys.exit(main({['demo', *SMALL]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"async-ckpt: {module} is not installed: pip install 'async-ckpt[{extra}]'\n"


def test_help_loads_nothing_heavy() -> None:
    heavy = ["sklearn", "scipy", "torch", "jax", "rich.live", "rich.progress_bar"]
    code = (
        "import sys; from async_ckpt.cli import main; main(['--version']);"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
