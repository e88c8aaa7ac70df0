"""``async for step in session`` is exactly ``while not should_stop(): yield global_step``."""

from __future__ import annotations

import pytest

from async_ckpt import MonitoredTrainingSession, ProtocolError, StopAtStepHook

pytestmark = pytest.mark.loop_flavours


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["run", "advance"])
async def test_it_yields_the_counter_until_the_stop(how: str) -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=4)]) as session:
        seen = []
        async for step in session:
            seen.append(step)
            await (session.run(lambda: None) if how == "run" else session.advance())
        assert seen == [0, 1, 2, 3]
        assert session.global_step == 4


@pytest.mark.asyncio
async def test_the_counter_it_yields_moves_by_what_the_body_did() -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=6)]) as session:
        assert [step async for step in _steps(session)] == [0, 3]


async def _steps(session: MonitoredTrainingSession):  # type: ignore[no-untyped-def]
    async for step in session:
        yield step
        await session.advance(2)
        await session.advance(1)


@pytest.mark.asyncio
async def test_a_body_that_does_no_step_raises_at_the_next_iteration() -> None:
    async with MonitoredTrainingSession() as session:
        bodies = 0
        with pytest.raises(ProtocolError, match="run\\(\\) or advance\\(\\)"):
            async for _ in session:
                bodies += 1
        assert bodies == 1


@pytest.mark.asyncio
async def test_a_body_that_only_asks_for_the_stop_is_no_error() -> None:
    async with MonitoredTrainingSession() as session:
        async for _ in session:
            session.request_stop("enough")
        assert session.stop_reason == "enough"


@pytest.mark.asyncio
async def test_a_body_whose_step_failed_and_was_caught_may_go_on() -> None:
    seen: list[int] = []

    async def fails() -> None:
        if len(seen) == 3:
            session.request_stop()
        raise ValueError

    async with MonitoredTrainingSession() as session:
        async for step in session:
            seen.append(step)
            try:
                await session.run(fails)
            except ValueError:
                continue
        assert seen == [0, 0, 0]


@pytest.mark.asyncio
async def test_a_body_whose_step_was_refused_has_done_no_step() -> None:
    async with MonitoredTrainingSession() as session:
        with pytest.raises(ProtocolError):
            async for _ in session:
                with pytest.raises(ValueError, match="steps"):
                    await session.advance(0)


@pytest.mark.asyncio
async def test_the_loop_may_be_left_and_begun_again() -> None:
    async with MonitoredTrainingSession(hooks=[StopAtStepHook(last_step=5)]) as session:
        async for step in session:
            if step == 2:
                break
            await session.advance()
        assert [step async for step in _ones(session)] == [2, 3, 4]


async def _ones(session: MonitoredTrainingSession):  # type: ignore[no-untyped-def]
    async for step in session:
        yield step
        await session.advance()


@pytest.mark.asyncio
async def test_a_step_between_making_the_iterator_and_using_it_does_not_count_against_the_body() -> None:
    async with MonitoredTrainingSession() as session:
        steps = aiter(session)
        await session.advance()
        assert await anext(steps) == 1


@pytest.mark.asyncio
async def test_a_session_that_is_stopped_or_closed_yields_nothing() -> None:
    async with MonitoredTrainingSession() as session:
        session.request_stop()
        assert [step async for step in session] == []
    assert [step async for step in session] == []
