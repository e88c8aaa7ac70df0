"""``async-ckpt pin`` and ``unpin``: protect a checkpoint from deletion, by whomever."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_ckpt.cli.reading import Directory

__all__ = ["pin", "unpin"]


async def pin(place: str, /) -> None:
    """Protect a checkpoint: no run and no prune deletes it, until it is unpinned.

    Parameters
    ----------
    place
        DIR or DIR@STEP; the newest valid checkpoint without a step. A run may be writing to it.
    """
    async with _opened(place) as found:
        step = await found.step()
        await found.store.pin(step)
    _say(f"step {step} is pinned")


async def unpin(place: str, /) -> None:
    """End a pin. Without one, nothing happens.

    Parameters
    ----------
    place
        DIR or DIR@STEP; the newest valid checkpoint without a step.
    """
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
