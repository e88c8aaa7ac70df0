"""``async-ckpt import``: files of other tools as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_ckpt.cli.options import whole_number
from async_ckpt.cli.outcome import Refused

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from async_ckpt.saver import Saver

__all__ = ["arguments", "import_"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`import_` takes."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what to import")
    said = "the directory of checkpoints; made if it is missing"
    parser.add_argument("--into", required=True, type=Path, metavar="DIR", help=said)
    said = "the step to save it as; 0 in an empty directory"
    parser.add_argument("--step", type=whole_number(), metavar="N", help=said)


async def import_(files: Sequence[Path], *, into: Path, step: int | None) -> None:
    """Save the arrays of FILE... as one checkpoint, each file under its name.

    Takes safetensors, npz, npy, and torch's pt, pth and bin with weights_only=True.

    The arrays of `model.safetensors` become the key `model` of the state, and `a/b` in it the key `b` of `a`.
    """
    from async_ckpt.cli import words  # noqa: PLC0415
    from async_ckpt.cli.output import say  # noqa: PLC0415
    from async_ckpt.saver import Saver  # noqa: PLC0415
    from async_ckpt.storage.names import check_step  # noqa: PLC0415

    if step is not None:
        try:
            check_step(step)
        except ValueError as error:
            raise Refused(f"--step: {error}") from error
    async with Saver(into, max_to_keep=None) as saver:
        number = await _step(saver, into, step)
        state = await saver._worker.call(_state, files)
        checkpoint = await saver.save(state, number, metadata={"imported": [path.name for path in files]})
    say(f"step {checkpoint.step}, {words.size(checkpoint.bytes)}: {checkpoint.path}")


def _state(files: Sequence[Path]) -> dict[str, Any]:
    from async_ckpt.cli.importing import group_name, read_arrays  # noqa: PLC0415

    state: dict[str, Any] = {}
    for path in files:
        name = group_name(path)
        found = read_arrays(path)
        known = state.get(name)
        if known is None:
            state[name] = found
        elif isinstance(known, dict) and isinstance(found, dict) and not known.keys() & found.keys():
            known.update(found)  # the parts of one model, in several files
        else:
            raise Refused(f"{path}: a file before it has the key {name!r} already")
    return state


async def _step(saver: Saver, into: Path, step: int | None) -> int:
    there = await saver._store.steps()
    if step is None:
        if there:
            raise Refused(
                f"{into} holds checkpoints up to step {there[-1]}: say which one it is to be, with --step"
            )
        return 0
    if step in there:
        raise Refused(f"{into} has a checkpoint of step {step} already")
    return step
