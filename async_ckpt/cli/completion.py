"""Completion scripts for shells, from the same declarations that the command reads its words with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shtab

from async_ckpt.cli.app import COMMANDS, command

if TYPE_CHECKING:
    import argparse

__all__ = ["script"]

_DIRECTORIES = {"directory", "place", "first", "second", "into"}
_FILES = {"files", "out", "png"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Give the script of a shell.

    Args:
        parser: The options of the command itself; its subcommands are added.
        shell: ``bash``, ``zsh`` or ``tcsh``.
    """
    parsers = parser.add_subparsers()
    for name in COMMANDS:
        found = command(name)
        one = parsers.add_parser(name, help=found.said.partition("\n\n")[0])
        found.arguments(one)
        for action in one._actions:
            if action.dest in _DIRECTORIES:
                vars(action)["complete"] = shtab.DIRECTORY
            elif action.dest in _FILES:
                vars(action)["complete"] = shtab.FILE
    return shtab.complete(parser, shell=shell)
