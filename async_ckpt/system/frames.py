"""Exceptions that are kept: what their frames hold is let go."""

from __future__ import annotations

__all__ = ["let_frames_go"]


def let_frames_go(error: BaseException) -> None:
    """Take the tracebacks from an exception that is kept as a value, and from those behind it.

    A traceback keeps the local variables of every function it went through: of a restore that failed, the
    whole state it had read by then.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        this = waiting.pop()
        if this is not None and id(this) not in seen:
            seen.add(id(this))
            this.__traceback__ = None
            waiting += (this.__cause__, this.__context__)
            if isinstance(this, BaseExceptionGroup):
                waiting += this.exceptions
