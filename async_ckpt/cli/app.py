"""The parser, and the list of subcommands: one module each, all of them light to import."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import cyclopts

from async_ckpt.cli.checkpoints.diff import diff
from async_ckpt.cli.checkpoints.export import export
from async_ckpt.cli.checkpoints.import_ import import_
from async_ckpt.cli.checkpoints.ls import ls
from async_ckpt.cli.checkpoints.pin import pin, unpin
from async_ckpt.cli.checkpoints.prune import prune
from async_ckpt.cli.checkpoints.show import show
from async_ckpt.cli.checkpoints.stats import stats
from async_ckpt.cli.checkpoints.verify import verify
from async_ckpt.cli.checkpoints.watch import watch
from async_ckpt.cli.demo.command import demo
from async_ckpt.cli.outcome import Exit, Refused, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["COMMANDS", "run"]

COMMANDS: tuple[Callable[..., object], ...] = (
    ls,
    show,
    verify,
    diff,
    prune,
    pin,
    unpin,
    export,
    import_,
    watch,
    stats,
    demo,
)
"""Plain functions or coroutine functions that return an exit code, or None for 0.

The name and docstring of each are its name and help. A module named here imports what is heavy
(numpy, rich, the session) inside its function, so that ``--help`` stays quick.
"""


def run(words: Sequence[str]) -> int:
    """Parse ``words``, carry the command out, and return its exit code.

    Raises:
        Refused: The words make no command.
        BaseException: Whatever the command raised.
    """
    app = _build()
    try:
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        message = f"{one_line(error)} (--help shows what there is)"
        raise Refused(message) from error
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        import asyncio  # noqa: PLC0415 - a tenth of the time that --help takes

        result = asyncio.run(result)
    return int(result) if isinstance(result, int) else Exit.DONE


def _build() -> cyclopts.App:
    app = cyclopts.App(
        name="async-ckpt",
        help="Checkpoints of training runs. Every command takes --debug: tracebacks instead of one line.",
        version=_version,
        help_format="plaintext",
    )
    for command in COMMANDS:
        app.command(command, name=command.__name__.rstrip("_"), help=_help(command))
    app.register_install_completion_command()
    return app


def _help(command: Callable[..., object]) -> str:
    """What a command does, a line for each paragraph: the terminal breaks them, and not the source."""
    said, _, _ = inspect.cleandoc(command.__doc__ or "").partition("\n\nParameters\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in said.split("\n\n"))


def _version() -> str:
    try:
        return version("async-ckpt")
    except PackageNotFoundError:
        return "unknown (run from a source tree that is not installed)"
