"""What every test gets: event loops of several flavours, and a check that nothing is left behind.

Plain ``@pytest.mark.asyncio`` runs once, on asyncio's own loop. ``@pytest.mark.loop_flavours`` (on a
test, a class or a module's ``pytestmark``) runs it on each flavour; names as arguments choose some.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, cast

import pytest

# Here, as the process that collects what parallel workers counted reads no other conftest.
from tests.reliability.tier import pytest_terminal_summary  # noqa: F401 - a hook by its name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

# A thread that was told to end needs a moment to do so; waiting longer only costs when something is wrong.
THREADS_END_WITHIN_SECS = 10.0

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_complaints: list[str] = []


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Remember what the loop would only have logged: an exception that nobody retrieved is a bug."""
    _complaints.append(f"{context.get('message')}: {context.get('exception')!r}")
    loop.default_exception_handler(context)


def _watched(make: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[], asyncio.AbstractEventLoop]:
    def factory() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_exception_handler(_complain)
        _loops.add(loop)
        return loop

    return factory


class DebugLoop(asyncio.SelectorEventLoop):
    """Asyncio's loop in debug mode, whatever the runner that owns it would rather have."""

    slow_callback_duration = 10.0  # a busy machine is no finding

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(True)


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    return loop


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()  # type: ignore[no-any-return,unused-ignore]


FLAVOURS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": _watched(asyncio.new_event_loop),
    "debug": _watched(DebugLoop),
}
if importlib.util.find_spec("uvloop") is not None:
    FLAVOURS["uvloop"] = _watched(_uvloop)
if sys.version_info >= (3, 12):
    FLAVOURS["eager"] = _watched(_eager_loop)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Offer every flavour to tests that ask for them, and one to all others."""
    marker = item.get_closest_marker("loop_flavours")
    if marker is None:
        return {"asyncio": FLAVOURS["asyncio"]}
    names = marker.args or FLAVOURS
    return {name: FLAVOURS[name] for name in names if name in FLAVOURS}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take memory addresses out of the tests' names: the processes of pytest-xdist have to agree on them."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        ids = marker.kwargs.get("ids")
        if callable(ids):
            cast("dict[str, object]", marker.kwargs)["ids"] = _WithoutAddresses(ids)


class _WithoutAddresses:
    def __init__(self, name: Callable[[Any], object]) -> None:
        self.name: Callable[[Any], object] = name.name if isinstance(name, _WithoutAddresses) else name

    def __call__(self, value: Any) -> object:
        name = self.name(value)
        return re.sub(r" at 0x[0-9a-f]+", "", name) if isinstance(name, str) else name


def _left_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    deadline = time.monotonic() + THREADS_END_WITHIN_SECS
    while left := [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.is_alive() and not thread.daemon
    ]:
        if time.monotonic() > deadline:
            return left
        left[0].join(0.05)
    return []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that passed and left a task running, or an exception that nobody retrieved.

    The loop is still open here; one step later its runner would cancel the tasks and say nothing.
    """
    _complaints.clear()
    result = yield
    if item.get_closest_marker("leaks") is None:
        open_loops = [loop for loop in _loops if not loop.is_closed()]
        left = [task for loop in open_loops for task in asyncio.all_tasks(loop)]
        if left:
            pytest.fail(f"the test left tasks running: {left}", pytrace=False)
        if _complaints:
            pytest.fail("the loop was left with: " + "; ".join(_complaints), pytrace=False)
    return result


@pytest.fixture(autouse=True)
def _no_thread_left(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a test after which a thread that it started still runs (daemons, as torch and jax keep, aside)."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("leaks") is None and (left := _left_threads(before)):
        pytest.fail(f"the test left threads running: {left}", pytrace=False)
