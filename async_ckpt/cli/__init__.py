"""The ``async-ckpt`` command.

It ends with one of these codes, whatever the subcommand:

====  ==========================================================================
0     done (a stop by signal with its final save, too)
1     damage or a difference was found
2     wrong use: an option, a value, or a missing extra
3     could not read or write: the directory, the lock, the disk
70    a fault of the program itself; ``--debug`` shows where
130   interrupted before it could finish
====  ==========================================================================

An error is one line on standard error; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from async_ckpt.cli import outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing but the code leaves this function.

    Args:
        argv: The words after the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if debug:
        words.remove("--debug")
    try:
        # Without the extra there is no parser; that has to end in a sentence, not in a traceback.
        from async_ckpt.cli import app  # noqa: PLC0415

        code = app.run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # `| head` has seen enough. What is left in the buffer would fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return outcome.Exit.DONE
    except BaseException as error:  # noqa: BLE001 - the one place that turns errors into words
        if debug:
            traceback.print_exception(error)
        ended, line = outcome.explain(error)
        if line:
            print(f"async-ckpt: {line}", file=sys.stderr)
        return ended
