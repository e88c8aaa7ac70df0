"""The suite's own safety net: loops of every flavour, and nothing left behind."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")

LEAKS = """
import asyncio, threading, time
import pytest

{mark}
@pytest.mark.asyncio
async def test_task():
    global kept
    kept = asyncio.create_task(asyncio.Event().wait(), name="the-forgotten-task")

{mark}
def test_thread():
    threading.Thread(target=time.sleep, args=(0.3,), name="the-forgotten-thread").start()

{mark}
@pytest.mark.asyncio
async def test_exception():
    future = asyncio.get_running_loop().create_future()
    future.set_exception(OSError("the-forgotten-exception"))
    del future
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    text = CONFTEST.read_text(encoding="utf-8")
    pytester.makeconftest(text.replace("END_WITHIN_SECS = 10.0", "END_WITHIN_SECS = 0.05"))
    pytester.makeini(
        """
        [pytest]
        asyncio_mode = strict
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        markers =
            loop_flavours
            leaks
        """
    )
    return pytester


def run(suite: pytest.Pytester, code: str) -> pytest.RunResult:
    suite.makepyfile(textwrap.dedent(code))
    return suite.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "-v")


def test_a_marked_test_runs_on_every_flavour_and_a_plain_one_once(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import asyncio
        import pytest

        @pytest.mark.asyncio
        async def test_plain():
            assert not asyncio.get_running_loop().get_debug()

        @pytest.mark.asyncio
        @pytest.mark.loop_flavours("debug", "uvloop")
        async def test_chosen(request):
            assert request.node.callspec.id in {"debug", "uvloop"}

        @pytest.mark.asyncio
        @pytest.mark.loop_flavours
        async def test_each(request):
            loop = asyncio.get_running_loop()
            name = request.node.callspec.id
            assert loop.get_debug() == (name == "debug")
            assert type(loop).__module__.startswith("uvloop") == (name == "uvloop")
            assert (loop.get_task_factory() is not None) == (name == "eager")
        """,
    )
    result.assert_outcomes(passed=1 + 2 + (4 if sys.version_info >= (3, 12) else 3))


def test_what_a_test_leaves_behind_fails_it_by_name(suite: pytest.Pytester) -> None:
    result = run(suite, LEAKS.format(mark=""))
    result.assert_outcomes(failed=2, passed=1, errors=1)  # threads are looked at in the teardown
    for what in ("task", "thread", "exception"):
        assert f"the-forgotten-{what}" in result.stdout.str()


def test_a_leak_may_be_declared(suite: pytest.Pytester) -> None:
    run(suite, LEAKS.format(mark="@pytest.mark.leaks('on purpose')")).assert_outcomes(passed=3)


def test_names_hold_no_addresses_so_that_parallel_runs_agree_on_them(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
        import pytest

        @pytest.mark.parametrize("value", [object(), {"nested": object()}], ids=str)
        def test_it(value):
            pass
        """,
    )
    result.assert_outcomes(passed=2)
    assert "test_it[<object object>]" in result.stdout.str()
    assert " at 0x" not in result.stdout.str()
