"""The parser, and the list of subcommands: only the one that is asked for is imported."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, NamedTuple

from async_ckpt.cli.options import Parser, did_you_mean
from async_ckpt.cli.outcome import Exit, Refused

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

__all__ = ["COMMANDS", "Command", "command", "run"]

COMMANDS = {
    "ls": "checkpoints.ls",
    "show": "checkpoints.show",
    "verify": "checkpoints.verify",
    "diff": "checkpoints.diff",
    "prune": "checkpoints.prune",
    "pin": "checkpoints.pin",
    "unpin": "checkpoints.pin",
    "export": "checkpoints.export",
    "import": "checkpoints.import_",
    "watch": "checkpoints.watch",
    "stats": "checkpoints.stats",
    "demo": "demo.command",
}
"""The module of each.

It holds a plain function or coroutine function of that name, which returns an exit code, or None for 0, and
whose docstring is the help; and ``arguments``, which declares what the function takes. It imports what is
heavy (numpy, rich, the session) inside its function.
"""

_SAID = "Checkpoints of training runs. Every command takes --debug: tracebacks instead of one line."
_SHELLS = ("bash", "zsh", "tcsh")


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        name: As it is typed.
        call: What it does.
        said: What that is, in words; paragraphs with empty lines between.
        arguments: Declares what ``call`` takes.
    """

    name: str
    call: Callable[..., object]
    said: str
    arguments: Callable[[argparse.ArgumentParser], None]

    def parser(self) -> Parser:
        """Make what reads its words."""
        parser = Parser(f"async-ckpt {self.name}", self.said)
        self.arguments(parser)
        return parser


def command(name: str) -> Command:
    """Import a subcommand."""
    module = importlib.import_module(f"async_ckpt.cli.{COMMANDS[name]}")
    # Python has taken the name `import`.
    call = getattr(module, f"{name}_", None) or getattr(module, name)
    return Command(name, call, inspect.cleandoc(call.__doc__ or ""), module.arguments)


def run(words: Sequence[str]) -> int:
    """Parse ``words``, carry the command out, and return its exit code.

    Raises:
        Refused: The words make no command.
        BaseException: Whatever the command raised.
    """
    name, *rest = words or ["--help"]
    if name.startswith("-"):
        return _run_option(words)
    if name not in COMMANDS:
        near = did_you_mean(name, [*COMMANDS])
        raise Refused(f"there is no command {name!r}{near} (--help shows what there is)")
    asked = command(name)
    try:
        options = asked.parser().read(rest)
    except SystemExit:
        return Exit.DONE
    result = asked.call(**vars(options))
    if inspect.iscoroutine(result):
        import asyncio  # noqa: PLC0415 - a third of the time that --help takes

        result = asyncio.run(result)
    return int(result) if isinstance(result, int) else Exit.DONE


def _run_option(words: Sequence[str]) -> int:
    parser = Parser("async-ckpt", _SAID)
    parser.add_argument("--version", action="store_true", help="print the version")
    said = f"print what completes its words in {', '.join(_SHELLS)}"
    parser.add_argument("--print-completion", metavar="SHELL", choices=_SHELLS, help=said)
    options, rest = parser.parse_known_args([word for word in words if word not in {"--help", "-h"}])
    if options.version:
        print(_version())
    elif options.print_completion is not None:
        from async_ckpt.cli.completion import script  # noqa: PLC0415

        print(script(parser, options.print_completion))
    elif rest:
        parser.read(rest)
    else:
        commands = parser.add_argument_group("commands", "async-ckpt COMMAND --help says more")
        for name in COMMANDS:
            commands.add_argument(name, help=command(name).said.partition("\n\n")[0])
        parser.usage = "async-ckpt COMMAND ..."
        parser.print_help()
    return Exit.DONE


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a third of --help

    try:
        return version("async-ckpt")
    except PackageNotFoundError:
        return "unknown (run from a source tree that is not installed)"
