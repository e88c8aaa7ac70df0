"""The recording listener and its gates."""

from __future__ import annotations

import asyncio

import pytest

from async_ckpt.testing import Gate, RecordingListener


@pytest.mark.asyncio
async def test_every_callback_is_recorded_in_order() -> None:
    listener = RecordingListener("A")
    await listener.begin()
    await listener.before_save(None, 2)
    assert await listener.after_save(None, 2) is None
    await listener.end(None, 3)
    assert listener.log == [
        ("A", "begin", None), ("A", "before_save", 2), ("A", "after_save", 2), ("A", "end", 3),
    ]  # fmt: skip
    assert listener.calls == {"begin": 1, "before_save": 1, "after_save": 1, "end": 1}


@pytest.mark.asyncio
async def test_listeners_can_share_a_log() -> None:
    log: list[tuple[str, str, int | None]] = []
    for name in "AB":
        await RecordingListener(name, log).begin()
    assert log == [("A", "begin", None), ("B", "begin", None)]


@pytest.mark.asyncio
async def test_it_votes_at_the_steps_it_is_told_to() -> None:
    listener = RecordingListener("A", vote_at=(2, 4), vote=["a", "list"])
    assert [await listener.after_save(None, step) for step in (1, 2, 3, 4)] == [
        None, ["a", "list"], None, ["a", "list"],
    ]  # fmt: skip


@pytest.mark.asyncio
async def test_it_raises_each_time_or_at_the_call_of_a_number() -> None:
    always, second = OSError("always"), OSError("second")
    listener = RecordingListener("A", raise_in={"begin": always, "after_save": {2: second}})
    with pytest.raises(OSError, match="always"):
        await listener.begin()
    await listener.after_save(None, 10)
    with pytest.raises(OSError, match="second"):
        await listener.after_save(None, 20)
    await listener.after_save(None, 30)
    assert listener.calls["after_save"] == 3


@pytest.mark.parametrize("argument", ["raise_in", "gates"])
def test_a_phase_that_does_not_exist_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match="no such phase"):
        RecordingListener("A", **{argument: {"aftersave": OSError()}})  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_gate_holds_a_callback_until_it_is_opened() -> None:
    gate = Gate()
    listener = RecordingListener("A", gates={"before_save": gate}, log_exits=True)
    task = asyncio.create_task(listener.before_save(None, 1))
    await gate.reached()
    assert listener.log == [("A", "before_save", 1)]
    gate.open()
    await task
    assert listener.log[-1] == ("A", "/before_save", 1)
    gate.close()
    task = asyncio.create_task(listener.before_save(None, 2))
    await gate.reached()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert listener.log[-1] == ("A", "/before_save", 2)
