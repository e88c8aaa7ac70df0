"""``async-ckpt pin`` and ``unpin``: protect a checkpoint from deletion, by whomever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_ckpt.cli.options import place_argument

if TYPE_CHECKING:
    import argparse

    from async_ckpt.cli.reading import Directory

__all__ = ["arguments", "pin", "unpin"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`pin` and :func:`unpin` take."""
    place_argument(parser)


async def pin(place: str) -> None:
    """Protect a checkpoint: no run and no prune deletes it, until it is unpinned.

    A run may be writing to the directory.
    """
    async with _opened(place) as found:
        step = await found.step()
        await found.store.pin(step)
    _say(f"step {step} is pinned")


async def unpin(place: str) -> None:
    """End a pin. Without one, nothing happens."""
    async with _opened(place) as found:
        step = await found.step()
        await found.store.unpin(step)
    _say(f"step {step} is not pinned")


def _opened(place: str) -> Directory:
    from async_ckpt.cli.place import Place  # noqa: PLC0415
    from async_ckpt.cli.reading import Directory  # noqa: PLC0415

    return Directory(Place.parse(place))


def _say(line: str) -> None:
    from async_ckpt.cli.output import say  # noqa: PLC0415

    say(line)
