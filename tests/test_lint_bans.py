"""What must never be written in the package, found by reading its syntax.

Each ban has met a bug: ``asyncio.wait_for`` and ``asyncio.Condition`` lose cancellations on Python 3.11, the
default executor belongs to somebody else, pickle and eval run what a file says, and a swallowed exception is
a lost error.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

_SPEC = importlib.util.find_spec("async_ckpt")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
ROOT = Path(_SPEC.submodule_search_locations[0])
FILES = sorted(ROOT.rglob("*.py"))

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "imp"}
BANNED_ATTRIBUTES = {
    ("asyncio", "wait_for"),
    ("asyncio", "Condition"),
    ("asyncio", "to_thread"),
    ("asyncio", "get_event_loop"),
    ("loop", "set_default_executor"),
    ("numpy", "prod"),
    ("np", "prod"),
}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
CLOCK = Path("system/clock.py")


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(dotted(t).rpartition(".")[2] in {"Exception", "BaseException"} for t in types)


def does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def offences(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Lines that break a ban, with the ban; ``path`` is relative to the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            first = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for name in first:
                if name.split(".")[0] in BANNED_MODULES:
                    yield node.lineno, f"imports {name}"
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (node.module, alias.name) in BANNED_ATTRIBUTES:
                        yield node.lineno, f"imports {node.module}.{alias.name}"
                    if (node.module, alias.name) == ("time", "time"):
                        yield node.lineno, "imports time.time"
        elif isinstance(node, ast.Attribute):
            value = dotted(node.value).rpartition(".")[2]
            if (value, node.attr) in BANNED_ATTRIBUTES:
                yield node.lineno, f"uses {value}.{node.attr}"
            if (value, node.attr) in {("time", "time"), ("datetime", "now")} and path != CLOCK:
                yield node.lineno, f"reads the wall clock with {value}.{node.attr}"
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in BANNED_CALLS:
                yield node.lineno, f"calls {name}"
            default = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value is None
            if name.rpartition(".")[2] == "run_in_executor" and default:
                yield node.lineno, "uses the loop's default executor"
        elif isinstance(node, ast.ExceptHandler):
            if catches_everything(node) and does_nothing(node.body):
                yield node.lineno, "swallows every exception"
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                call = item.context_expr
                if (
                    isinstance(call, ast.Call)
                    and dotted(call.func).rpartition(".")[2] == "suppress"
                    and any(dotted(a).rpartition(".")[2] in {"Exception", "BaseException"} for a in call.args)
                ):
                    yield node.lineno, "swallows every exception"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_banned_is_written(path: Path) -> None:
    text = path.read_text("utf-8")
    found = [
        f"{path.relative_to(ROOT.parent)}:{line} {what}"
        for line, what in offences(ast.parse(text), path.relative_to(ROOT))
    ]
    found += [
        f"{path.relative_to(ROOT.parent)}:{line} promises later work"
        for line, content in enumerate(text.splitlines(), 1)
        if any(word in content for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.wait_for(x, 1)",
        "from asyncio import wait_for",
        "c = asyncio.Condition()",
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "exec(text)",
        "loop.run_in_executor(None, f)",
        "asyncio.get_running_loop().run_in_executor(None, f)",
        "await asyncio.to_thread(f)",
        "t = time.time()",
        "from time import time",
        "n = np.prod(shape)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (OSError, BaseException):\n    'never mind'",
        "try:\n    f()\nexcept:\n    pass",
        "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
        "with contextlib.suppress(Exception):\n    f()",
    ],
)
def test_each_ban_is_found(code: str) -> None:
    tree = compile(code, "<ban>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert list(offences(tree, Path("session.py")))


@pytest.mark.parametrize(
    "code",
    [
        "await asyncio.wait([x])",
        "loop.run_in_executor(pool, f)",
        "t = time.monotonic()",
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept Exception as e:\n    log(e)",
        "with contextlib.suppress(FileNotFoundError):\n    f()",
    ],
)
def test_what_is_allowed_stays_allowed(code: str) -> None:
    tree = compile(code, "<fine>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert not list(offences(tree, Path("session.py")))


def test_the_clock_module_alone_reads_the_wall_clock() -> None:
    assert not list(offences(ast.parse("time.time()"), CLOCK))
