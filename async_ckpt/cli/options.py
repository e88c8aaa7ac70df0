"""Options and values of the subcommands, for the parser of the standard library."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, NoReturn

from async_ckpt.cli.outcome import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Parser", "json_option", "number", "place_argument", "whole_number"]

# `int` reads the digits of every script, and underscores; this, what a shell would call a number.
_WHOLE = re.compile(r"-?[0-9]{1,40}\Z", re.ASCII)


class Parser(argparse.ArgumentParser):
    """A parser that refuses what it cannot read with :class:`Refused`, and never by half a name.

    Args:
        prog: What is typed to get here.
        said: What it is for. Only empty lines break it; the rest is for the terminal to do.
    """

    def __init__(self, prog: str, said: str = "") -> None:
        width = shutil.get_terminal_size().columns - 2
        paragraphs = (textwrap.fill(" ".join(each.split()), width) for each in said.split("\n\n"))
        super().__init__(
            prog,
            description="\n\n".join(paragraphs),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read what follows the name of the command.

        Raises:
            Refused: It cannot be read.
            SystemExit: Help was asked for, and given.
        """
        found, left = self.parse_known_args(words)
        if left:
            known = [name for action in self._actions for name in action.option_strings]
            self.error(f"{left[0]!r} is not known here{did_you_mean(left[0], known)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            Refused: Always.
        """
        raise Refused(f"{message} (--help shows what there is)")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Give a question about the name nearest to ``word``; nothing if none is near."""
    near = difflib.get_close_matches(word.partition("=")[0], known, 1)
    return f'. Did you mean "{near[0]}"?' if near else ""


def json_option(parser: argparse.ArgumentParser) -> None:
    """Take ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def place_argument(parser: argparse.ArgumentParser, name: str = "place", *, more: str = "") -> None:
    """Take one checkpoint."""
    said = f"DIR or DIR@STEP; the newest valid checkpoint without a step{more}"
    parser.add_argument(name, metavar="DIR[@STEP]", help=said)


def whole_number(*, least: int | None = None) -> Callable[[str], int]:
    """Give what reads an integer that is not below ``least``."""

    def read(text: str) -> int:
        if not _WHOLE.match(text):
            raise argparse.ArgumentTypeError(f"a whole number is needed, not {text!r}")
        if least is not None and int(text) < least:
            raise argparse.ArgumentTypeError(f"needs at least {least}, not {text}")
        return int(text)

    return read


def number(
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> Callable[[str], float]:
    """Give what reads a number within bounds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"a number is needed, not {text!r}") from None
        for name, bound, holds in (
            ("at least", least, value >= least),
            ("above", above, value > above),
            ("at most", most, value <= most),
            ("below", below, value < below),
        ):
            # NaN lies within no bound; where there is none, everything else does.
            if not holds and (math.isfinite(bound) or math.isnan(value)):
                raise argparse.ArgumentTypeError(f"has to be {name} {bound:g}, not {text}")
        return value

    return read
