"""Requests of ``session.save()``: who asked, which saves they wait for, and who is told of what failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from async_ckpt.errors import ProtocolError
from async_ckpt.runtime.runner import Attempt, SaveRunner
from async_ckpt.runtime.scheduler import Scheduler
from async_ckpt.saver import Checkpoint
from async_ckpt.session.host import SessionHost

__all__ = ["SaveRequest", "answer", "refuse", "take_back"]


@dataclass(slots=True, eq=False)
class SaveRequest:
    """One caller of ``session.save()`` and what it waits for.

    Attributes:
        attempts: One entry per saver hook that had its place; None where nothing had to be saved.
    """

    answer: asyncio.Future[tuple[Checkpoint, ...]]
    attempts: list[Attempt | None] = field(default_factory=list)
    withdrawn: bool = False

    def withdraw(self) -> None:
        """The caller has gone: its save goes on, and an error of it belongs to the boundary again."""
        if not self.withdrawn:
            self.withdrawn = True
            for attempt in _begun(self.attempts):
                attempt.askers -= 1


def refuse(requests: Iterable[SaveRequest], message: str) -> None:
    """Answer every request that still waits with a ``ProtocolError``."""
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(ProtocolError(message))


def take_back(request: SaveRequest, host: SessionHost) -> None:
    """The boundary ended early: make the request as new, for the next one."""
    request.withdraw()
    _surface_untold(_begun(request.attempts), host)
    request.attempts.clear()
    request.withdrawn = False


async def answer(
    requests: Sequence[SaveRequest],
    runners: Sequence[SaveRunner],
    scheduler: Scheduler,
    host: SessionHost,
) -> None:
    """Wait until every save of one boundary is over and answer those who asked for it.

    Whoever asked gets the first error, with the others as its notes; an error that nobody is left to
    be given to surfaces like any other.
    """
    attempts = {attempt for request in requests for attempt in _begun(request.attempts)}
    for attempt in attempts:
        await scheduler.finished(attempt)
    for request in requests:
        if not request.answer.done():
            _answer_one(request, runners, host)
    _surface_untold(attempts, host)


def _answer_one(request: SaveRequest, runners: Sequence[SaveRunner], host: SessionHost) -> None:
    failed = [attempt for attempt in _begun(request.attempts) if attempt.error is not None]
    if failed:
        errors = [attempt.error for attempt in failed if attempt.error is not None]
        for attempt, error in zip(failed, errors, strict=True):
            if not attempt.told and error is not errors[0]:
                host.errors.append(error)
                errors[0].add_note(f"and {error!r}")
            attempt.told = True
        request.answer.set_exception(errors[0])
        return
    found = [
        runner.latest if attempt is None else attempt.checkpoint
        for runner, attempt in zip(runners, request.attempts, strict=True)
    ]
    checkpoints = tuple(checkpoint for checkpoint in found if checkpoint is not None)
    if len(checkpoints) < len(found):
        refuse([request], "the session ended before the save was through")
    else:
        request.answer.set_result(checkpoints)


def _begun(attempts: Iterable[Attempt | None]) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt is not None]


def _surface_untold(attempts: Iterable[Attempt], host: SessionHost) -> None:
    for attempt in attempts:
        if attempt.error is not None and not attempt.told and attempt.askers <= 0:
            attempt.told = True
            host.fail(attempt.error)
