"""What must never be written in our Python, found by reading its syntax.

Each ban has met a bug: ``asyncio.wait_for`` and ``asyncio.Condition`` lose cancellations on Python 3.11, a
task that nobody refers to is collected in the middle of its work, the default executor belongs to somebody
else, the wall clock and the times of files jump and say nothing about order, pickle and eval run what a file
says, and a swallowed exception is a lost error.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

__all__ = ["offences"]

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "imp"}
BANNED_ATTRIBUTES = {
    ("asyncio", "wait_for"),
    ("asyncio", "Condition"),
    ("asyncio", "to_thread"),
    ("anyio", "to_thread"),
    ("asyncio", "get_event_loop"),
    ("loop", "set_default_executor"),
    ("numpy", "prod"),
    ("np", "prod"),
}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
WALL_CLOCK = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("dt", "now"),
}
FILE_TIMES = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "getmtime", "getctime"}
TASK_MAKERS = {"create_task", "ensure_future"}
EVERYTHING = {"Exception", "BaseException"}


def offences(tree: ast.AST, *, clock: bool = False) -> Iterator[tuple[int, str]]:
    """Lines that break a ban, with the ban; ``clock`` says that this code may ask for the time of day."""
    for node in ast.walk(tree):
        for what in _banned(node):
            if not (clock and what.startswith("reads the wall clock")):
                yield node.lineno, what  # type: ignore[attr-defined]


def _banned(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import():
            for alias in node.names:
                yield from _imported(alias.name)
        case ast.ImportFrom():
            yield from _imported(node.module or "")
            for alias in node.names:
                yield from _named(node.module or "", alias.name)
        case ast.Attribute():
            yield from _named(_dotted(node.value).rpartition(".")[2], node.attr)
        case ast.Call():
            yield from _called(node)
        case ast.Expr(value=ast.Call() as call) if _makes_a_task(call):
            yield "lets go of a task that it starts"
        case ast.Assign(targets=[ast.Name(id="_")], value=ast.Call() as call) if _makes_a_task(call):
            yield "lets go of a task that it starts"
        case ast.ExceptHandler():
            if _catches_everything(node.type) and _does_nothing(node.body):
                yield "swallows every exception"
        case ast.With() | ast.AsyncWith():
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            if any(
                _dotted(call.func).rpartition(".")[2] == "suppress"
                and any(_catches_everything(argument) for argument in call.args)
                for call in calls
            ):
                yield "swallows every exception"


def _imported(name: str) -> Iterator[str]:
    if name.split(".", maxsplit=1)[0] in BANNED_MODULES:
        yield f"imports {name}"
    if name == "anyio.to_thread":
        yield "uses anyio.to_thread"


def _named(module: str, name: str) -> Iterator[str]:
    if (module, name) in BANNED_ATTRIBUTES:
        yield f"uses {module}.{name}"
    if (module, name) in WALL_CLOCK:
        yield f"reads the wall clock with {module}.{name}"
    if name in FILE_TIMES:
        yield f"looks at a file's time with {name}"


def _called(call: ast.Call) -> Iterator[str]:
    name = _dotted(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in BANNED_CALLS:
        yield f"calls {name}"
    if name == "torch.load" and not _is(given.get("weights_only"), value=True):
        yield "unpickles with torch.load"
    if _is(given.get("allow_pickle"), value=True):
        yield "unpickles with allow_pickle"
    if name.rpartition(".")[2] == "run_in_executor" and _is(
        (*call.args, given.get("executor"))[0], value=None
    ):
        yield "uses the loop's default executor"


def _makes_a_task(call: ast.Call) -> bool:
    """Whether a call starts a task that only its result refers to; a group refers to its tasks itself."""
    owner, _, name = _dotted(call.func).rpartition(".")
    return name in TASK_MAKERS and not owner.rpartition(".")[2].endswith(("group", "tg"))


def _catches_everything(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_dotted(one).rpartition(".")[2] in EVERYTHING for one in kinds)


def _does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(node, ast.Pass | ast.Continue | ast.Break)
        or (isinstance(node, ast.Return) and node.value is None)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )


def _is(node: ast.expr | None, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{_dotted(node.func)}()"
    return node.id if isinstance(node, ast.Name) else "?"
