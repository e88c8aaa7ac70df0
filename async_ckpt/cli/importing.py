"""Arrays out of files that other tools wrote. Nothing in them is executed. All of it blocks."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from async_ckpt.cli.outcome import Exit, Refused
from async_ckpt.errors import DamagedCheckpointError
from async_ckpt.state.arrays import DTYPES, stored
from async_ckpt.storage.names import group_of
from async_ckpt.storage.safetensors import decode_header

__all__ = ["group_name", "read_arrays"]


def read_arrays(path: Path) -> Any:
    """Read a file by its ending: ``.safetensors``, ``.npz``, ``.npy``; torch's ``.pt``, ``.pth``, ``.bin``.

    Returns:
        A tree: tables of arrays nested at each ``/`` of a name; for torch whatever the file holds.

    Raises:
        Refused: The ending is unknown, or the file is not what it says; the message says why.
        ModuleNotFoundError: torch is needed, and is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise Refused(f"{path}: its ending is none of {', '.join(_READERS)}")
    try:
        return reader(path)
    except DamagedCheckpointError as error:
        raise Refused(str(error), code=Exit.FOUND) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{path}: {error}", code=Exit.FOUND) from error


def group_name(path: Path) -> str:
    """What a file is called as a top-level key: its name without ending and number."""
    return (
        group_of(path.name)
        if path.suffix == ".safetensors" and group_of(path.name) != path.name
        else path.stem
    )


def _safetensors(path: Path) -> Any:
    with path.open("rb") as file:
        prefix = file.read(8)
        head = prefix + file.read(min(int.from_bytes(prefix, "little"), 100_000_000))
    header = decode_header(head, file_bytes=path.stat().st_size, path=str(path))
    memory = np.memmap(path, np.uint8, "r") if header.file_bytes else np.empty(0, np.uint8)
    table = {}
    for tensor in header.tensors:
        if tensor.dtype not in DTYPES:
            raise ValueError(f"tensor {tensor.name!r} is of type {tensor.dtype}, which cannot be saved")
        row = memory[tensor.offset : tensor.offset + tensor.bytes]
        table[tensor.name] = stored(tensor.dtype, tensor.shape, row)
    return _nested(path, table)


def _npz(path: Path) -> Any:
    # Opened here, as numpy leaves a file open that it does not understand.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return _nested(path, {name: archive[name] for name in archive.files})


def _npy(path: Path) -> Any:
    with path.open("rb") as file:
        return {path.stem: np.load(file, allow_pickle=False)}


def _torch(path: Path) -> Any:
    import torch  # noqa: PLC0415 - optional, and slow to import

    try:
        # Tensors and plain containers only; whatever else the file asks for is refused by torch.
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"torch does not read it: {error}") from error
    except Exception as error:
        # Named in a module of the standard library that has no business here.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ValueError(f"torch refuses it with weights_only=True: {error}") from error


def _nested(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what paths do to containers: ``a/b`` is ``b`` in ``a``."""
    root: dict[str, Any] = {}
    for name, array in table.items():
        *above, last = name.split("/")
        node: Any = root
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path}: {name!r} lies below a tensor")
        if last in node:
            raise ValueError(f"{path}: {name!r} is a tensor and a table")
        node[last] = array
    return root


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".npy": _npy,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
}
