"""``session.save()``: who may ask, and which boundary serves it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from async_ckpt.core.standing import refusal
from async_ckpt.saver import Checkpoint
from async_ckpt.session.inside import refuse_in_mutation, refuse_inside
from async_ckpt.session.requests import SaveRequest, refuse

if TYPE_CHECKING:
    from async_ckpt.session.session import MonitoredTrainingSession

__all__ = ["save", "serve"]


async def save(session: MonitoredTrainingSession) -> tuple[Checkpoint, ...]:
    """Ask for a save and wait for it; one checkpoint per saver hook.

    See :meth:`MonitoredTrainingSession.save`.
    """
    steps, boundary = session._steps, session._boundary
    refuse_inside(session, "save")
    refuse_in_mutation("save")
    session._life.refuse_unless_open("save")
    if not any(place.runner for place in session._places):
        return ()
    request = SaveRequest(asyncio.get_running_loop().create_future())
    boundary.ask(request)
    own = asyncio.current_task() is session._life.task
    try:
        if not steps.under_way and (own or not steps.by_advance):
            await serve(session)
        return await request.answer
    except BaseException:
        request.answer.cancel()
        request.withdraw()
        if request in boundary.requests:
            boundary.requests.remove(request)
        raise


async def serve(session: MonitoredTrainingSession) -> None:
    """Serve between steps what was asked for and not taken back."""
    boundary, steps = session._boundary, session._steps
    async with steps.turn:
        if session._life.state == "open" and any(not r.answer.done() for r in boundary.requests):
            why = refusal(steps.standing)
            if why is None:
                await boundary.on_demand()
            else:
                refuse(boundary.requests, why)
                boundary.requests.clear()
