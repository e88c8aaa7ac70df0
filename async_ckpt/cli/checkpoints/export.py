"""``async-ckpt export``: tensors of a checkpoint as one plain safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from async_ckpt.cli.options import place_argument
from async_ckpt.cli.outcome import Refused

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from async_ckpt.cli.reading import Directory
    from async_ckpt.storage.records import Manifest, TensorEntry

__all__ = ["arguments", "export"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`export` takes."""
    place_argument(parser)
    said = "the file to write; it appears complete or not at all"
    parser.add_argument("out", type=Path, metavar="OUT", help=said)
    said = "a glob over paths, as 'model/**'; may be given more than once"
    parser.add_argument("--only", action="append", default=[], metavar="GLOB", help=said)
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")


async def export(place: str, out: Path, *, only: Sequence[str], force: bool) -> None:
    """Write tensors of a checkpoint to one safetensors file, each under its path.

    Every byte is checked on the way. Plain values and what is known of containers stay behind.
    """
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import say  # noqa: PLC0415
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415

    async with Directory(Place.parse(place)) as found:
        step = await found.step()
        async with found.store.lease(step):
            manifest = await found.manifest(step)
            entries = _chosen(manifest, only)
            total = sum(entry.bytes for entry in entries)
            await _write(found, manifest, entries, out, total, replace=force)
    say(f"{words.count(len(entries), 'tensor')} of step {step}, {words.size(total)}: {out}")


def _chosen(manifest: Manifest, only: Sequence[str]) -> list[TensorEntry]:
    from async_ckpt.state.paths import matcher  # noqa: PLC0415

    matches, hits = matcher(only or None)
    found = [entry for entry in manifest.tensors if matches(entry.path)]
    idle = [glob for glob, hit in hits.items() if not hit]
    if idle:
        raise Refused(f"no tensor matches {', '.join(map(repr, idle))}; `show` lists them")
    return found


async def _write(
    found: Directory,
    manifest: Manifest,
    entries: list[TensorEntry],
    out: Path,
    total: int,
    *,
    replace: bool,
) -> None:
    from async_ckpt.cli.contents import read_tensor  # noqa: PLC0415
    from async_ckpt.cli.progress import bytes_bar  # noqa: PLC0415
    from async_ckpt.cli.safe_output import new_file  # noqa: PLC0415
    from async_ckpt.state.arrays import as_bytes_view  # noqa: PLC0415
    from async_ckpt.storage.safetensors import encode_header  # noqa: PLC0415

    placed, end = [], 0
    for entry in entries:
        placed.append((entry.path, entry.dtype, entry.shape, end, end + entry.bytes))
        end += entry.bytes
    metadata = {"step": str(manifest.step), "written_by": "async-ckpt export"}
    with new_file(out, replace=replace) as file, bytes_bar(f"step {manifest.step}", total) as progress:
        await found.worker.call(file.write, encode_header(placed, align=8, metadata=metadata))
        for entry in entries:
            array = await read_tensor(found, manifest, entry)
            await found.worker.call(file.write, as_bytes_view(array).data)
            progress(entry.bytes)
