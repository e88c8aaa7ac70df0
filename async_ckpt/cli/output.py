"""Tables and JSON on standard output: coloured in a terminal, plain columns when piped.

``NO_COLOR`` takes the colours away, and rich reads it by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

__all__ = ["Column", "note", "print_json", "print_table", "say"]


_FOLDED = 20
_WIDEST = 10_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its head.
        align: Where its cells stand.
        style: How rich draws it.
        fold: Whether a long cell goes on below; others are never cut.
    """

    name: str
    align: Literal["left", "right"] = "left"
    style: str = ""
    fold: bool = False


def print_json(value: Any) -> None:
    """Print plain values as indented JSON; a number that is none (NaN, infinities) becomes null."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say(line: str, *, style: str = "") -> None:
    """Print one line, in a style where there are colours."""
    if not style or not sys.stdout.isatty():
        print(line)
        return
    from rich.console import Console  # noqa: PLC0415

    Console(highlight=False).print(line, style=style, markup=False)


def note(line: str) -> None:
    """Print one line beside the output, on standard error."""
    print(f"async-ckpt: {line}", file=sys.stderr)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells below the columns' heads; nothing but the heads if there are none."""
    if sys.stdout.isatty():
        _print_rich(columns, rows)
    else:
        _print_plain(columns, rows)


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for at, column in enumerate(columns):
        widest = max(cell_len(cells[at]) for cells in ([each.name for each in columns], *rows))
        table.add_column(
            column.name,
            justify=column.align,
            style=column.style or None,
            no_wrap=not column.fold,
            overflow="fold",
            min_width=min(widest, _FOLDED) if column.fold else widest,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    # In a terminal that is too narrow the terminal wraps the lines: a figure that was cut looks like another.
    needed = console.measure(table, options=console.options.update(max_width=_WIDEST)).minimum
    console.width = max(console.width, needed)
    console.print(table)


def _print_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    heads = [column.name.upper().replace(" ", "_") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())
