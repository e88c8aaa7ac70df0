"""``async-ckpt diff``: what changed from one checkpoint to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import json_option, place_argument
from async_ckpt.cli.outcome import Exit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from async_ckpt.cli.reading import Directory
    from async_ckpt.storage.records import Manifest, TensorEntry

__all__ = ["arguments", "diff"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`diff` takes."""
    place_argument(parser, "first")
    place_argument(parser, "second")
    json_option(parser)


async def diff(first: str, second: str, *, json: bool) -> int:
    """Compare two checkpoints, tensor by tensor.

    Ends with 1 if they differ in a tensor or a plain value. Tensors whose digests agree are not read: whether
    a disk has changed one since is for `verify` to say.
    """
    from async_ckpt.cli.output import print_json  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415

    async with Directory(Place.parse(first)) as old, Directory(Place.parse(second)) as new:
        record = await _compare(old, new)
    if json:
        print_json(record)
    else:
        _print(record)
    return Exit.FOUND if record["different"] else Exit.DONE


async def _compare(old: Directory, new: Directory) -> dict[str, Any]:
    from async_ckpt.cli.contents import plain_values  # noqa: PLC0415

    steps = await old.step(), await new.step()
    async with old.store.lease(steps[0]), new.store.lease(steps[1]):
        before, after = await old.manifest(steps[0]), await new.manifest(steps[1])
        tensors = await _tensors(old, before, new, after)
        values = _values(plain_values(old, before), plain_values(new, after))
    groups = _identical(before, after)
    return {
        "first": {"directory": str(old.place.directory), "step": steps[0]},
        "second": {"directory": str(new.place.directory), "step": steps[1]},
        "different": any(tensors.values()) or bool(values),
        **tensors,
        "values": values,
        "identical_groups": groups,
    }


async def _tensors(
    old: Directory, before: Manifest, new: Directory, after: Manifest
) -> dict[str, list[dict[str, Any]]]:
    from async_ckpt.cli.progress import bytes_bar  # noqa: PLC0415

    left = {entry.path: entry for entry in before.tensors}
    right = {entry.path: entry for entry in after.tensors}
    pairs = [(entry, right[path]) for path, entry in left.items() if path in right]
    changed = [(a, b) for a, b in pairs if (a.digest, a.dtype, a.shape) != (b.digest, b.dtype, b.shape)]
    found = []
    with bytes_bar("comparing", sum(a.bytes + b.bytes for a, b in changed)) as progress:
        for a, b in changed:
            found.append(await _change(old, before, a, new, after, b))
            progress(a.bytes + b.bytes)
    return {
        "changed": found,
        "added": [_described(entry) for path, entry in right.items() if path not in left],
        "removed": [_described(entry) for path, entry in left.items() if path not in right],
    }


async def _change(
    old: Directory, before: Manifest, a: TensorEntry, new: Directory, after: Manifest, b: TensorEntry
) -> dict[str, Any]:
    from async_ckpt.cli.comparing import difference  # noqa: PLC0415
    from async_ckpt.cli.contents import read_tensor  # noqa: PLC0415

    record: dict[str, Any] = {
        "path": a.path,
        "dtype": [a.dtype, b.dtype],
        "shape": [list(a.shape), list(b.shape)],
        "max_abs": None,
        "mean_abs": None,
        "elements": None,
        "nans": None,
    }
    if a.shape == b.shape:
        x, y = await read_tensor(old, before, a), await read_tensor(new, after, b)
        found = await old.worker.call(difference, x, y)
        record |= {
            "max_abs": found.largest,
            "mean_abs": found.mean,
            "elements": found.elements,
            "nans": found.nans,
        }
    return record


def _described(entry: TensorEntry) -> dict[str, Any]:
    return {"path": entry.path, "dtype": entry.dtype, "shape": list(entry.shape), "bytes": entry.bytes}


def _values(before: Mapping[str, str], after: Mapping[str, str]) -> list[dict[str, Any]]:
    paths = dict.fromkeys((*before, *after))
    return [
        {"path": path, "first": before.get(path), "second": after.get(path)}
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _identical(before: Manifest, after: Manifest) -> list[str]:
    """Top-level keys whose tensors are the same, byte for byte, on both sides."""
    from async_ckpt.storage.names import group_of  # noqa: PLC0415

    sides = []
    for manifest in (before, after):
        groups: dict[str, set[tuple[Any, ...]]] = {}
        for entry in manifest.tensors:
            content = (entry.path, entry.digest, entry.dtype, entry.shape)
            groups.setdefault(group_of(manifest.files[entry.file].name), set()).add(content)
        sides.append(groups)
    return [name for name, content in sides[0].items() if sides[1].get(name) == content]


def _print(record: dict[str, Any]) -> None:
    from async_ckpt.cli.output import Column, print_table, say  # noqa: PLC0415

    for side in ("first", "second"):
        say(f"{side}: step {record[side]['step']} of {record[side]['directory']}")
    rows = [[entry["path"], "changed", _both(entry), *_figures(entry)] for entry in record["changed"]]
    for what in ("added", "removed"):
        rows += [[entry["path"], what, _one(entry), "", "", ""] for entry in record[what]]
    if rows:
        columns = [
            Column("tensor", fold=True),
            Column("is"),
            Column("as"),
            Column("max abs", "right"),
            Column("mean abs", "right"),
            Column("elements", "right"),
        ]
        print_table(columns, rows)
    for value in record["values"]:
        sides = ("not there" if value[side] is None else value[side] for side in ("first", "second"))
        say(f"{value['path']}: {' -> '.join(sides)}")
    if record["identical_groups"]:
        say(f"identical groups: {', '.join(record['identical_groups'])}", style="green")
    if not record["different"]:
        say("every tensor and every plain value was saved the same (`verify` reads the bytes)", style="green")


def _figures(entry: dict[str, Any]) -> list[str]:
    if entry["max_abs"] is None:
        return ["", "", ""]
    nans = f" ({entry['nans']} nan)" if entry["nans"] else ""
    return [f"{entry['max_abs']:.4g}", f"{entry['mean_abs']:.4g}", f"{entry['elements']}{nans}"]


def _one(entry: dict[str, Any]) -> str:
    return f"{entry['dtype']} {'x'.join(map(str, entry['shape'])) or 'scalar'}"


def _both(entry: dict[str, Any]) -> str:
    sides = [_one({"dtype": entry["dtype"][n], "shape": entry["shape"][n]}) for n in (0, 1)]
    return sides[0] if sides[0] == sides[1] else " -> ".join(sides)
