"""Tables in terminals of any width, and help that is broken by the terminal and by nobody else."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from async_ckpt.cli.app import COMMANDS, command
from async_ckpt.cli.output import Column, print_table
from tests.cli.command import run

pytest.importorskip("rich")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [10, 40, 200])
def test_a_narrow_terminal_cuts_no_figure(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    columns = [Column("what"), Column("least", "right"), Column("most", "right"), Column("why", fold=True)]
    print_table(columns, [["throughput of it all", "13.2 MB/s", "373 MB/s", "a reason " * 9]])
    text = out.getvalue()
    for cell in ("throughput of it all", "13.2 MB/s", "373 MB/s"):
        assert cell in text
    assert text.count("reason") == 9


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_line_break_but_those_of_the_terminal(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    said = run(name, "--help").out
    for paragraph in command(name).said.split("\n\n"):
        assert " ".join(paragraph.split()) in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_help_of_all_with_what_it_does(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    line = next(line for line in run("--help").out.splitlines() if line.split()[:1] == [name])
    assert " ".join(command(name).said.partition("\n\n")[0].split()) in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_is_told_of_every_command_and_option(shell: str) -> None:
    script = run("--print-completion", shell).out
    for word in (*COMMANDS, "keep-best", "dry-run", "print-completion"):
        assert word in script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("pru", ["prune"]), ("prune --keep-l", ["--keep-last"]), ("verify --a", ["--all"])],
)
def test_bash_completes_what_was_begun(typed: str, offered: list[str]) -> None:
    words = typed.split()
    asked = f"""
{run("--print-completion", "bash").out}
COMP_WORDS=(async-ckpt {typed}); COMP_CWORD={len(words)}
_shtab_async_ckpt async-ckpt {words[-1]}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered
