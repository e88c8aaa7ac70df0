"""``async-ckpt watch``: each new checkpoint as it comes, and a command run for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option, number
from async_ckpt.cli.outcome import Exit, Refused

if TYPE_CHECKING:
    import argparse

    from async_ckpt.saver import Checkpoint

__all__ = ["arguments", "watch"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`watch` takes."""
    said = "the directory of the run; it need not be there yet"
    parser.add_argument("directory", metavar="DIR", help=said)
    said = "run CMD for each; {path} and {step} stand for its own"
    parser.add_argument("--exec", dest="exec_", metavar="CMD", help=said)
    parser.add_argument("--once", action="store_true", help="end after the first one")
    said = "seconds to wait for a checkpoint before it ends"
    parser.add_argument("--timeout", type=number(least=0), metavar="SECS", help=said)
    said = "least seconds from one checkpoint to the next"
    parser.add_argument("--min-interval", type=number(least=0), default=0.0, metavar="SECS", help=said)
    json_option(parser)


async def watch(
    directory: str, *, exec_: str | None, once: bool, timeout: float | None, min_interval: float, json: bool
) -> int:
    """Print a line for the newest checkpoint of DIR, and for each newer one once it is durable.

    While CMD runs, its checkpoint is not deleted, and newer ones wait: the next to come is the newest then.
    Ends with 1 if a CMD failed, and with 3 if no checkpoint came in time.
    """
    from async_ckpt.saver import watch_checkpoints  # noqa: PLC0415

    words = _words(exec_)
    _check_directory(directory)
    watching = watch_checkpoints(directory, min_interval_secs=min_interval, timeout_secs=timeout)
    seen = failed = 0
    async with watching as found:
        async for checkpoint in found:
            seen += 1
            _tell(checkpoint, json=json)
            failed += words is not None and not await _execute(words, checkpoint)
            if once:
                break
    if not seen:
        raise Refused(f"{directory}: no checkpoint came within {timeout:g} s", code=Exit.IO)
    return Exit.FOUND if failed else Exit.DONE


def _check_directory(text: str) -> None:
    """It need not be there; but what is there already has to be a directory, and named as one."""
    from async_ckpt.cli.place import Place  # noqa: PLC0415

    name, at, _ = text.rpartition("@")
    if Path(text).exists() or (at and Path(name).is_dir()):
        Place.parse_directory(text)


def _words(command: str | None) -> list[str] | None:
    import shlex  # noqa: PLC0415

    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Refused(f"--exec {command!r}: {error}") from error
    if not words:
        raise Refused("--exec needs a command")
    return words


def _tell(checkpoint: Checkpoint, *, json: bool) -> None:
    import msgspec  # noqa: PLC0415

    from async_ckpt.cli import words  # noqa: PLC0415

    if json:
        record: dict[str, Any] = {
            "step": checkpoint.step,
            "path": checkpoint.path,
            "bytes": checkpoint.bytes,
            "created": checkpoint.created,
            "metrics": checkpoint.metrics,
        }
        print(msgspec.json.encode(record).decode(), flush=True)
        return
    metrics = words.metrics(dict(checkpoint.metrics))
    print(
        f"step {checkpoint.step}  {words.size(checkpoint.bytes)}  {checkpoint.path}  {metrics}".rstrip(),
        flush=True,
    )


async def _execute(words: list[str], checkpoint: Checkpoint) -> bool:
    """Run the command to its end, and say so if it failed."""
    import asyncio  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from async_ckpt.system.threads import finish  # noqa: PLC0415

    filled = [
        word.replace("{path}", checkpoint.path).replace("{step}", str(checkpoint.step)) for word in words
    ]
    try:
        child = await asyncio.create_subprocess_exec(*filled)
    except OSError as error:
        raise Refused(f"--exec {filled[0]}: {error.strerror}") from error
    # Ctrl-C reaches the command too; whatever it still does with the checkpoint, it does under the lease.
    code = await finish(child.wait())
    if code:
        print(f"async-ckpt: step {checkpoint.step}: {filled[0]} ended with {code}", file=sys.stderr)
    return code == 0
