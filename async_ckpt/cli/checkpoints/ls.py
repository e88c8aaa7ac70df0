"""``async-ckpt ls``: what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option
from async_ckpt.cli.outcome import Exit

if TYPE_CHECKING:
    import argparse

    from async_ckpt.cli.reading import Row

__all__ = ["arguments", "ls"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`ls` takes."""
    parser.add_argument("directory", metavar="DIR", help="the directory of the run")
    json_option(parser)


async def ls(directory: str, *, json: bool) -> int:
    """List the checkpoints of DIR, newest first.

    Valid means: the manifest is intact, and its files are there and of the right size; `verify` reads every
    byte. Ends with 1 if one is not valid.
    """
    from async_ckpt.cli.output import Column, note, print_json, print_table  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415
    from async_ckpt.system.clock import RealClock  # noqa: PLC0415

    async with Directory(Place.parse_directory(directory)) as found:
        rows = await found.rows()
    now = RealClock().wall()
    if json:
        print_json([_record(row, now) for row in rows])
    elif not rows:
        note(f"{directory} holds no checkpoint")
    else:
        columns = [
            Column("step", "right", "bold"),
            Column("age", "right"),
            Column("size", "right"),
            Column("reused", "right", "dim"),
            Column("state"),
            Column("metrics", fold=True),
        ]
        print_table(columns, [_cells(row, now) for row in rows])
    return Exit.DONE if all(row.valid for row in rows) else Exit.FOUND


def _record(row: Row, now: float) -> dict[str, Any]:
    return {
        "step": row.step,
        "path": row.path,
        "valid": row.valid,
        "reason": row.reason,
        "pinned": row.pinned,
        "created": row.created,
        "age_secs": None if row.created is None else max(0.0, now - row.created),
        "bytes": row.bytes,
        "reused_bytes": row.reused_bytes,
        "metrics": row.metrics,
    }


def _cells(row: Row, now: float) -> list[str]:
    from async_ckpt.cli import words  # noqa: PLC0415

    state = ["pinned"] if row.pinned else []
    if row.reason is not None:
        return [str(row.step), "", "", "", ", ".join(["damaged", *state]), row.reason]
    return [
        str(row.step),
        "" if row.created is None else words.age(now - row.created),
        words.size(row.bytes or 0),
        words.size(row.reused_bytes) if row.reused_bytes else "",
        ", ".join(["valid", *state]),
        words.metrics(dict(row.metrics or {})),
    ]
