"""``async-ckpt prune``: delete what no policy keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option, whole_number
from async_ckpt.cli.outcome import Refused

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from async_ckpt.cli.reading import Directory, Row
    from async_ckpt.core.retention import Policy

__all__ = ["arguments", "prune"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`prune` takes."""
    said = "the directory of the run; no run may be writing to it"
    parser.add_argument("directory", metavar="DIR", help=said)
    count = whole_number(least=1)
    parser.add_argument("--keep-last", type=count, metavar="N", help="keep the N newest")
    said = "keep the N best: N:METRIC, or N:METRIC:min if less is better; may be given more than once"
    parser.add_argument("--keep-best", action="append", default=[], metavar="N:METRIC", help=said)
    parser.add_argument("--keep-every", type=count, metavar="N", help="keep one for every N steps")
    said = "say what would be deleted, and delete nothing"
    parser.add_argument("--dry-run", action="store_true", help=said)
    json_option(parser)


async def prune(
    directory: str,
    *,
    keep_last: int | None,
    keep_best: Sequence[str],
    keep_every: int | None,
    dry_run: bool,
    json: bool,
) -> None:
    """Delete the checkpoints of DIR that none of the given rules keeps.

    The newest, pinned ones, those being read and damaged ones always stay.
    """
    from async_ckpt.cli.output import print_json  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415
    from async_ckpt.saver import Saver  # noqa: PLC0415

    policies = _policies(keep_last, keep_best, keep_every)
    place = Place.parse_directory(directory)
    async with Directory(place) as found:
        rows = await found.rows()
        _check_metrics(rows, policies)
        gone = await _surplus(found, rows, policies)
    if not dry_run:
        async with Saver(place.directory, keep=policies) as saver:
            gone = await saver.prune()
    record = _record(rows, gone, dry_run=dry_run)
    if json:
        print_json(record)
    else:
        _print(record)


def _policies(last: int | None, best: Sequence[str], every: int | None) -> list[Policy]:
    from async_ckpt.core.retention import EveryNSteps, LatestN  # noqa: PLC0415

    found: list[Policy] = []
    if last is not None:
        found.append(LatestN(last))
    found += map(_best, best)
    if every is not None:
        found.append(EveryNSteps(every))
    if not found:
        raise Refused("say what to keep: --keep-last N, --keep-best N:METRIC or --keep-every N")
    return found


def _best(text: str) -> Policy:
    from async_ckpt.core.retention import BestN  # noqa: PLC0415

    count, _, rest = text.partition(":")
    metric, mode = rest, "max"
    if rest.endswith((":min", ":max")):
        metric, _, mode = rest.rpartition(":")
    if not (count.isascii() and count.isdigit() and metric):
        raise Refused(f"--keep-best takes N:METRIC or N:METRIC:min, not {text!r}")
    if int(count) < 1:
        raise Refused(f"--keep-best needs at least 1, not {count}")
    return BestN(int(count), metric, "min" if mode == "min" else "max")


def _check_metrics(rows: list[Row], policies: list[Policy]) -> None:
    """Refuse a metric that no checkpoint has: misspelled, it would keep nothing."""
    from async_ckpt.core.retention import BestN  # noqa: PLC0415

    known = sorted({name for row in rows for name in row.metrics or ()})
    for policy in policies:
        if isinstance(policy, BestN) and policy.metric not in known and any(row.valid for row in rows):
            there = f"there is {', '.join(known)}" if known else "they have no metrics at all"
            raise Refused(f"--keep-best: no checkpoint has the metric {policy.metric!r}; {there}")


async def _surplus(found: Directory, rows: list[Row], policies: list[Policy]) -> list[int]:
    from async_ckpt.core.retention import Candidate, surplus  # noqa: PLC0415

    candidates = [
        Candidate(row.step, row.created or 0.0, dict(row.metrics or {})) for row in rows if row.valid
    ]
    return surplus(candidates, policies, protected=await found.store.pinned())


def _record(rows: list[Row], gone: list[int], *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "deleted": gone,
        "kept": sorted(row.step for row in rows if row.step not in gone),
        # Where others share a file, deleting one of its names frees nothing.
        "freed_bytes": sum((row.bytes or 0) - (row.reused_bytes or 0) for row in rows if row.step in gone),
    }


def _print(record: dict[str, Any]) -> None:
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import say  # noqa: PLC0415

    verb = "would delete" if record["dry_run"] else "deleted"
    for step in record["deleted"]:
        say(f"{verb} step {step}", style="yellow")
    kept = ", ".join(map(str, record["kept"])) or "none"
    count = words.count(len(record["deleted"]), "checkpoint")
    say(f"{verb} {count}, at least {words.size(record['freed_bytes'])}; kept: {kept}")
