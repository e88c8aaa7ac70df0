"""Where the tasks of a loop stand, for the message of a deadlock."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

__all__ = ["describe"]


def describe(loop: asyncio.AbstractEventLoop) -> str:
    """One line per task of ``loop`` that is not done: its name and the chain of awaits it stands in."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    return "\n".join(f"  {task.get_name()}: {_chain(task.get_coro())}" for task in tasks)


def _chain(awaited: Any) -> str:
    places = []
    while awaited is not None:
        frame = next((f for a in _FRAMES if (f := getattr(awaited, a, None)) is not None), None)
        if frame is None:
            places.append(f"waits for {awaited!r}" if isinstance(awaited, asyncio.Future) else repr(awaited))
        else:
            code = frame.f_code
            places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = next((a for name in _INNER if (a := getattr(awaited, name, None)) is not None), None)
    return " > ".join(places) or "not started"


_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_INNER = ("cr_await", "gi_yieldfrom", "ag_await")
