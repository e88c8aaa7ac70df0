"""The tables that compare with other libraries: from their kept results, by those who measured them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

__all__ = ["comparisons"]

MEASURED = {"power cut": "power_cut", "bit flip": "bit_flip"}


def comparisons(kept: Path) -> dict[str, Callable[[], str]]:
    """Give what makes each table from its file in ``kept``; the file's module in ``benchmarks`` spells it."""
    return {title: partial(_table, kept / f"{name}.json", name) for title, name in MEASURED.items()}


def _table(path: Path, module: str) -> str:
    if not path.exists():
        return f"Not measured yet: `python -m benchmarks.{module}`."
    measured = importlib.import_module(f"benchmarks.{module}")
    return str(measured.table(measured.decode(path.read_bytes())))
