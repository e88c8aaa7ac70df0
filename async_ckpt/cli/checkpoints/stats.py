"""``async-ckpt stats``: stalls, throughput and sizes over a run, from its event log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option
from async_ckpt.cli.outcome import Exit, Refused

if TYPE_CHECKING:
    import argparse

    from async_ckpt.cli.statistics import Stats

__all__ = ["arguments", "stats"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`stats` takes."""
    parser.add_argument("directory", metavar="DIR", help="the directory of the run")
    said = "draw a plot into this file; replaced if it is there"
    parser.add_argument("--png", type=Path, metavar="FILE", help=said)
    json_option(parser)


def stats(directory: str, *, png: Path | None, json: bool) -> None:
    """Sum up the event log of DIR: how long steps were held, how fast it wrote, what went wrong.

    Sessions append their events to `events.jsonl` in the directory of the run.
    """
    from async_ckpt.cli.output import print_json  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.statistics import gather  # noqa: PLC0415
    from async_ckpt.storage.journal import JOURNAL, read_events  # noqa: PLC0415

    place = Place.parse_directory(directory).directory
    found = gather(read_events(place))
    if not found.sessions and not found.saves:
        raise Refused(f"{place}: there is no {JOURNAL} with a session in it", code=Exit.IO)
    if png is not None:
        from async_ckpt.cli.plotting import draw  # noqa: PLC0415 - matplotlib takes a second

        draw(found.saves, png, title=str(place))
    if json:
        print_json(found.record())
    else:
        _print(found)
        if png is not None:
            print(f"drawn: {png}")


def _print(found: Stats) -> None:
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import Column, print_table, say  # noqa: PLC0415

    record = found.record()
    say(
        f"{words.count(record['sessions'], 'session')}, {record['resumed']} of them resumed, "
        f"{record['ended']} ended in order; "
        f"{words.count(record['saves'], 'durable save')}, the last of step {record['last_step']}"
    )
    secs, size, rate = (lambda value: f"{value:.3g} s"), words.size, (lambda value: f"{words.size(value)}/s")
    rows = [
        _row("step held", record["stall_secs"], secs),
        _row("until durable", record["durable_secs"], secs),
        _row("size", record["bytes"], size),
        _row("throughput", record["bytes_per_sec"], rate),
    ]
    rows += [
        _row(f"{entry['listener']}.{entry['phase']} ({entry['calls']})", entry["secs"], secs)
        for entry in record["listeners"]
    ]
    columns = [Column("what"), *(Column(name, "right") for name in ("median", "least", "most"))]
    print_table(columns, [row for row in rows if row])
    for kind, count in record["events"].items():
        say(f"{kind}: {count}")


def _row(name: str, spread: dict[str, float] | None, spell: Any) -> list[str]:
    return [] if spread is None else [name, *(spell(spread[key]) for key in ("median", "min", "max"))]
