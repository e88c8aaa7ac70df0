"""``async-ckpt show``: what is in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option, place_argument

if TYPE_CHECKING:
    import argparse

    from async_ckpt.storage.records import Manifest

__all__ = ["arguments", "show"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`show` takes."""
    place_argument(parser)
    json_option(parser)


async def show(place: str, *, json: bool) -> None:
    """Show the tensors of a checkpoint as a tree, with totals per group."""
    from async_ckpt.cli.output import print_json  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415

    async with Directory(Place.parse(place)) as found:
        manifest = await found.manifest(await found.step())
        report, reason = await found.catalog.report_or_reason(manifest.step)
        checkpoint = found.catalog.checkpoint(found.catalog.entry_of(manifest), report)
    record: dict[str, Any] = {
        "step": checkpoint.step,
        "path": checkpoint.path,
        "created": checkpoint.created,
        "bytes": checkpoint.bytes,
        "metrics": checkpoint.metrics,
        "metadata": checkpoint.metadata,
        "votes": [] if report is None else report.votes,
        "report": "damaged" if reason is not None else "missing" if report is None else "valid",
        "report_expected": manifest.expects_report,
        "groups": _groups(manifest),
        "tensors": _tensors(manifest),
    }
    if json:
        print_json(record)
    else:
        _print(record)


def _tensors(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "path": entry.path,
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "bytes": entry.bytes,
            "digest": entry.digest,
            "kind": entry.kind,
            "file": manifest.files[entry.file].name,
        }
        for entry in manifest.tensors
    ]


def _groups(manifest: Manifest) -> list[dict[str, Any]]:
    """Totals per top-level key, which is what the names of the files begin with."""
    from async_ckpt.storage.names import group_of  # noqa: PLC0415

    groups: dict[str, dict[str, Any]] = {}
    for number, file in enumerate(manifest.files):
        name = group_of(file.name)
        group = groups.setdefault(name, {"group": name, "files": 0, "tensors": 0, "bytes": 0})
        group["files"] += 1
        group["bytes"] += file.bytes
        group["tensors"] += sum(entry.file == number for entry in manifest.tensors)
    return list(groups.values())


def _rows(tensors: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row per tensor, and one per container above it, as a tree."""
    from async_ckpt.cli import words  # noqa: PLC0415

    open_above: list[str] = []
    for entry in tensors:
        *above, last = entry["path"].split("/")
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(open_above, above, strict=False))
        )
        for depth in range(shared, len(above)):
            yield ["  " * depth + above[depth] + "/", "", "", "", ""]
        open_above = above
        yield [
            "  " * len(above) + last,
            entry["dtype"],
            "x".join(map(str, entry["shape"])) or "scalar",
            words.size(entry["bytes"]),
            entry["digest"],
        ]


def _print(record: dict[str, Any]) -> None:
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import Column, print_table, say  # noqa: PLC0415

    say(f"step {record['step']} in {record['path']}, {words.size(record['bytes'])}", style="bold")
    for name in ("metrics", "metadata"):
        if record[name]:
            shown = words.metrics(record[name]) if name == "metrics" else repr(record[name])
            say(f"{name}: {shown}")
    if record["votes"]:
        say("votes: " + ", ".join(str(vote.get("listener")) for vote in record["votes"]))
    if record["report"] == "damaged" or (record["report_expected"] and record["report"] == "missing"):
        say(f"the report is {record['report']}: after_save is called again when the run is resumed")
    print_table(
        [
            Column("tensor"),
            Column("dtype"),
            Column("shape"),
            Column("size", "right"),
            Column("digest", style="dim"),
        ],
        list(_rows(record["tensors"])),
    )
    print_table(
        [Column("group"), Column("files", "right"), Column("tensors", "right"), Column("size", "right")],
        [
            [group["group"], str(group["files"]), str(group["tensors"]), words.size(group["bytes"])]
            for group in record["groups"]
        ],
    )
