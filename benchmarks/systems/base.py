"""What every system is driven through."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.states import Arrays

__all__ = ["System", "Times", "UnavailableError"]


class UnavailableError(Exception):
    """The system, or an option of it, is not there in the installed version."""


@dataclass(frozen=True)
class Times:
    """When things happened, by ``time.perf_counter``.

    Attributes:
        began: The call.
        released: The caller could go on changing the state; None where there is nothing to wait for.
        durable: The system said it was done; None where it writes nothing.
        held: Seconds the caller was held, where that is not ``released - began``.
        parts: Seconds of parts, by name.
    """

    began: float
    released: float | None
    durable: float | None
    held: float | None = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> float:
        """When the save was over for everyone; what a caller computes beside it does not count."""
        return self.durable or self.released or self.began

    @property
    def stall(self) -> float | None:
        if self.held is not None or self.released is None:
            return self.held
        return self.released - self.began


class System(Protocol):
    """One way of saving a state, driven from an event loop the way its users would."""

    def adopt(self, arrays: Arrays) -> None:
        """Make the live state out of ``arrays``. Nothing in here is measured."""

    async def open(self, directory: Path, /) -> None:
        """Make ready to save into ``directory``."""

    async def save(self, step: int, /) -> Times:
        """Save the state, and wait until the system says that it is done."""

    async def close(self) -> None:
        """Give everything back."""
