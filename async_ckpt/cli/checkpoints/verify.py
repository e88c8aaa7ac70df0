"""``async-ckpt verify``: every byte against its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option
from async_ckpt.cli.outcome import Exit

if TYPE_CHECKING:
    import argparse

    from async_ckpt.cli.reading import Directory

__all__ = ["arguments", "verify"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`verify` takes."""
    said = "DIR or DIR@STEP; the newest checkpoint without a step"
    parser.add_argument("place", metavar="DIR[@STEP]", help=said)
    parser.add_argument("--all", action="store_true", dest="all_", help="every checkpoint of DIR")
    json_option(parser)


async def verify(place: str, *, all_: bool, json: bool) -> int:
    """Read every byte of a checkpoint and compare it with its digest.

    Ends with 1 and a line per damaged file if one is not what was saved.
    """
    from async_ckpt.cli.output import print_json  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415
    from async_ckpt.errors import NoCheckpointError  # noqa: PLC0415

    where = Place.parse_directory(place) if all_ else Place.parse(place)
    async with Directory(where) as found:
        steps = await found.store.steps() if where.step is None else [where.step]
        if not steps:
            raise NoCheckpointError(f"{where} holds no checkpoint", path=str(where))
        judged = [await _judge(found, step) for step in (steps if all_ else steps[-1:])]
    if json:
        print_json(judged)
    else:
        for record in judged:
            _print(record)
    return Exit.FOUND if any(record["damage"] for record in judged) else Exit.DONE


async def _judge(found: Directory, step: int) -> dict[str, Any]:
    from async_ckpt.cli.progress import bytes_bar  # noqa: PLC0415
    from async_ckpt.errors import DamagedCheckpointError, FormatVersionError  # noqa: PLC0415
    from async_ckpt.saver.verifying import judge_files  # noqa: PLC0415

    catalog = found.catalog
    record: dict[str, Any] = {"step": step, "path": catalog.path(step), "files": 0, "bytes": 0, "damage": []}
    async with found.store.lease(step):
        try:
            manifest = await catalog.manifest(step)
            catalog.entry_of(manifest)
        except (DamagedCheckpointError, FormatVersionError) as error:
            record["damage"] = [_damage(error)]
            return record
        record["files"] = len(manifest.files)
        record["bytes"] = sum(file.bytes for file in manifest.files)
        with bytes_bar(f"step {step}", record["bytes"]) as progress:
            damage = await judge_files(found.store, catalog, found.worker, manifest, progress)
        _, reason = await catalog.report_or_reason(step)
    record["damage"] = [_damage(error) for error in (*damage, *([] if reason is None else [reason]))]
    return record


def _damage(error: Any) -> dict[str, Any]:
    return {"path": error.path, "reason": str(error)}


def _print(record: dict[str, Any]) -> None:
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import say  # noqa: PLC0415

    if not record["damage"]:
        read = f"{words.count(record['files'], 'file')}, {words.size(record['bytes'])}"
        say(f"step {record['step']}: every byte is what was saved ({read})", style="green")
        return
    for damage in record["damage"]:
        say(f"step {record['step']}: {damage['reason']}", style="red")
