"""What the runtime needs of the session it works for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from async_ckpt import events
from async_ckpt.runtime.lane import Lane
from async_ckpt.system.clock import Clock

__all__ = ["Host"]

T = TypeVar("T")


class Host(Protocol):
    """What a runner needs of the session it works for."""

    clock: Clock
    lane: Lane

    @property
    def facade(self) -> Any:
        """The object the callbacks get as ``session``."""
        ...

    @property
    def global_step(self) -> int:
        """How many steps the session has counted."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """What a save taken now puts into its manifest."""
        ...

    @property
    def expired(self) -> bool:
        """The grace period of the exit is over: nothing new is to be begun but ``end``."""
        ...

    @property
    def overlap_allowed(self) -> bool:
        """The user has said where the state changes, so a copy may run beside the next step."""
        ...

    def wants(self, kind: type[events.Event]) -> bool:
        """Whether anybody is to be told of such events; what is costly to tell is not told otherwise."""
        ...

    def emit(self, event: type[events.Event], **fields: Any) -> None:
        """Tell the observers."""
        ...

    def fail(self, error: BaseException) -> None:
        """Keep ``error`` until the next boundary, or the exit, raises it."""
        ...

    def warn(self, message: str) -> None:
        """Keep a warning until the next boundary, or the exit, issues it."""
        ...

    async def copies_done(self) -> None:
        """Wait for copies that run beside the step, of every saver: what comes next may change the state."""
        ...

    def in_state_thread(self, fn: Callable[[], T], *, bound: bool) -> Awaitable[T]:
        """Evaluate ``fn`` off the loop, or where the last step ran if the state is ``bound`` to it."""
        ...

    def stateful(self) -> Sequence[tuple[str, Any]]:
        """The session's own stateful hooks, with their keys."""
        ...
