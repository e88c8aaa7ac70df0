"""A bare interpreter that imports what this process would import, and no more than it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import async_ckpt

__all__ = ["bare"]

TREE = Path(__file__).parents[3]


def bare(module: str, *words: str) -> list[str]:
    """Give the command that calls ``main(*words)`` of a module in a bare interpreter.

    It finds the same ``async_ckpt`` and the same ``tests`` as this process, wherever they lie.
    """
    package = Path(async_ckpt.__file__).parents[1]
    path = [str(package), str(TREE), *(entry for entry in sys.path if entry.startswith("/"))]
    code = f"import sys; sys.path[:] = {json.dumps(path)}; from {module} import main; main(*sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-B", "-c", code, *words]
