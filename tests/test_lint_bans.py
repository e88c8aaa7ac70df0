"""Nothing banned is written in the package, the examples or the benchmarks."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from tests.bans import offences

_SPEC = importlib.util.find_spec("async_ckpt")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
PACKAGE = Path(_SPEC.submodule_search_locations[0])
TREE = Path(__file__).parents[1]
FILES = [
    (root.parent, path)
    for root in (PACKAGE, TREE / "examples", TREE / "benchmarks")
    for path in sorted(root.rglob("*.py"))
]
CLOCK = PACKAGE / "system" / "clock.py"
PICKLES = {
    "unpickles with torch.load",  # a peer is opened by its own loader
}


@pytest.mark.parametrize(("root", "path"), FILES, ids=[str(path.relative_to(root)) for root, path in FILES])
def test_nothing_banned_is_written(root: Path, path: Path) -> None:
    text = path.read_text("utf-8")
    ours = PACKAGE in path.parents
    # When a benchmark was run, and what a peer has written, is told with the peer's means and the day's date.
    found = [
        f"{path.relative_to(root)}:{line} {what}"
        for line, what in offences(ast.parse(text), clock=path == CLOCK or not ours)
        if ours or what not in PICKLES
    ]
    found += [
        f"{path.relative_to(root)}:{line} promises later work"
        for line, content in enumerate(text.splitlines(), 1)
        if any(word in content for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    ]
    assert not found, "\n".join(found)


def parsed(code: str) -> ast.AST:
    # `ast.parse` knows no `await` outside of a function.
    tree: ast.AST = compile(code, "<snippet>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return tree


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.wait_for(x, 1)",
        "from asyncio import wait_for",
        "c = asyncio.Condition()",
        "from asyncio import Condition",
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "eval(text)",
        "exec(text)",
        "loop.run_in_executor(None, f)",
        "asyncio.get_running_loop().run_in_executor(None, f)",
        "loop.run_in_executor(executor=None, func=f)",
        "loop.set_default_executor(pool)",
        "await asyncio.to_thread(f)",
        "await anyio.to_thread.run_sync(f)",
        "from anyio import to_thread",
        "from anyio.to_thread import run_sync",
        "import anyio.to_thread",
        "t = time.time()",
        "t = time.time_ns()",
        "from time import time",
        "t = datetime.datetime.now()",
        "sorted(paths, key=lambda p: p.stat().st_mtime)",
        "sorted(paths, key=os.path.getmtime)",
        "n = np.prod(shape)",
        "asyncio.create_task(f())",
        "asyncio.ensure_future(f())",
        "asyncio.get_running_loop().create_task(f())",
        "self.loop.create_task(f(), name='f')",
        "create_task(f())",
        "_ = asyncio.create_task(f())",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept Exception:\n    ...",
        "try:\n    f()\nexcept (OSError, BaseException):\n    'never mind'",
        "try:\n    f()\nexcept:\n    pass",
        "def g():\n    try:\n        f()\n    except Exception:\n        return",
        "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
        "with contextlib.suppress(Exception):\n    f()",
        "with suppress(OSError, BaseException):\n    f()",
    ],
)
def test_each_ban_is_found(code: str) -> None:
    assert list(offences(parsed(code)))


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.wait([x])",
        "loop.run_in_executor(pool, f)",
        "t = time.monotonic()",
        "task = asyncio.create_task(f())",
        "tasks.add(asyncio.create_task(f()))",
        "await asyncio.ensure_future(f())",
        "group.create_task(f())",
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept Exception as e:\n    log(e)",
        "with contextlib.suppress(FileNotFoundError):\n    f()",
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
    ],
)
def test_what_is_allowed_stays_allowed(code: str) -> None:
    assert not list(offences(parsed(code)))


def test_only_who_may_ask_for_the_time_of_day_does() -> None:
    assert not list(offences(parsed("time.time()"), clock=True))
    assert list(offences(parsed("time.time()"), clock=False))
