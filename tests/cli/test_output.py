"""Tables in terminals of any width, and help that is broken by the terminal and by nobody else."""

from __future__ import annotations

import inspect
import io
import sys

import pytest

from async_ckpt.cli.app import COMMANDS
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


@pytest.mark.parametrize("command", [command.__name__.rstrip("_") for command in COMMANDS])
def test_help_has_no_line_break_but_those_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    said = run(command, "--help").out
    (found,) = (each for each in COMMANDS if each.__name__.rstrip("_") == command)
    summary, *_ = inspect.cleandoc(found.__doc__ or "").partition("\n\nParameters\n")
    for paragraph in summary.split("\n\n"):
        assert " ".join(paragraph.split()) in said
    assert "Parameters\n---" not in said
    assert "[default: False]" not in said
    assert "[default: ()]" not in said
