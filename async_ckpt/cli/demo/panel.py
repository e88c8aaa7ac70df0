"""The panel of the live display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box, panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from async_ckpt.cli.words import size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from async_ckpt.cli.demo.view import View

__all__ = ["Panel", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 40
LABEL_WIDTH = len("directory")


class Panel:
    """Renders a view as it is at the moment it is drawn."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __rich__(self) -> RenderableType:
        view = self._view
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", no_wrap=True, min_width=LABEL_WIDTH)
        rows.add_column(width=BAR_WIDTH, no_wrap=True)
        rows.add_column(no_wrap=True)

        rows.add_row("step", _bar(view.step, view.last_step), f"{view.step} of {view.last_step}")
        rows.add_row("loss", *_loss(view))
        rows.add_row("accuracy", *_accuracy(view))
        rows.add_row("save", *_save(view))
        rows.add_row("last", *_last(view))
        rows.add_row("on disk", Text(_steps(view.kept), overflow="ellipsis"), "")
        rows.add_row("directory", Text(view.directory, overflow="ellipsis"), "")
        rows.add_row("votes", Text(view.votes[-1] if view.votes else "none yet", style="yellow"), "")
        if view.trouble:
            rows.add_row("trouble", Text(view.trouble, style="red"), "")
        return panel.Panel(
            rows,
            title="async-ckpt demo",
            subtitle=_footer(view),
            box=box.ROUNDED,
            expand=False,
        )


def sparkline(values: Iterable[float]) -> str:
    """Return one block per value, its height between the lowest and the highest of them."""
    numbers = list(values)
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    if high == low:
        return BARS[0] * len(numbers)
    scale = (len(BARS) - 1) / (high - low)
    return "".join(BARS[round((number - low) * scale)] for number in numbers)


def _bar(done: float, total: float, *, style: str = "cyan") -> ProgressBar:
    return ProgressBar(
        total=max(total, 1e-9),
        completed=min(done, total),
        width=BAR_WIDTH,
        complete_style=style,
        finished_style="green",
    )


def _loss(view: View) -> tuple[str, str]:
    return ("", "") if view.loss is None else ("", f"{view.loss:.4f}")


def _accuracy(view: View) -> tuple[RenderableType, str]:
    if not view.accuracies:
        return "", "not measured yet"
    goal = f", stops at {view.goal:.1%}" if view.goal else ""
    line = sparkline(view.accuracies)[-BAR_WIDTH:]
    return Text(line, style="green"), f"{view.accuracies[-1]:.1%} held out{goal}"


def _save(view: View) -> tuple[RenderableType, str]:
    done, total = view.bytes_done, view.bytes_total
    text = f"{size(done)} of {size(total)}"
    if view.saving is not None:
        text = f"step {view.saving}: {text}"
    return _bar(done, total, style="magenta"), text


def _last(view: View) -> tuple[str, str]:
    if view.last is None:
        return "none yet" if view.resumed is None else f"step {view.resumed}, from an earlier run", ""
    last = view.last
    return (
        f"step {last.step}, {size(last.bytes)}, durable in {last.seconds * 1e3:.0f} ms",
        f"training held {view.held * 1e3:.1f} ms",
    )


def _steps(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "nothing yet"


def _footer(view: View) -> str:
    if view.stopping:
        return f"stopping: {view.stopping}"
    if view.signals:
        return "one more save, then it stops"
    return "Ctrl-C saves and stops"
