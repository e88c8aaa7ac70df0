"""The house, read from its own source: imports go one way, the pure rooms are pure, some things are banned.

The list of rooms is read from docs/internals.md, so page and code cannot drift apart.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "async_ckpt"
DOCS = Path(__file__).parent.parent / "docs" / "internals.md"


def _package_root() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


ROOT = _package_root()
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in FILES}


def rooms_of(page: str) -> list[str]:
    """The rooms in the order in which imports may go down."""
    found = re.search(r"Imports go down this list only(.*?)\. Inside a room", page, re.DOTALL)
    assert found, "docs/internals.md no longer lists the rooms"
    names = re.findall(r"`([a-z_]+)`", found[1].partition(":")[2])
    # What users import sits below the two rooms that use it as a user would.
    assert names[:2] == ["cli", "testing"]
    return [*names[:2], PACKAGE, *names[2:]]


ROOMS = rooms_of(DOCS.read_text("utf-8"))

# What the house promises to be pure; whatever they import of ours has to be pure as well.
PROMISED_PURE = [
    *sorted(ROOT.glob("core/*.py")),
    ROOT / "state" / "layout.py",
    ROOT / "storage" / "safetensors.py",
    ROOT / "storage" / "manifest.py",
]

# What can do I/O, read a clock, draw a number, wait, or start a thread.
IMPURE = {
    *("os", "io", "shutil", "pathlib", "glob", "tempfile", "mmap", "fcntl", "select", "selectors"),
    *("time", "datetime", "sched", "random", "secrets", "uuid", "socket", "ssl", "http", "urllib"),
    *("asyncio", "anyio", "trio", "aiofiles", "threading", "_thread", "queue", "concurrent", "signal"),
    *("multiprocessing", "subprocess", "logging", "sys", "ctypes", "builtins", "importlib"),
}


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    parts = module.split(".")
    if parts[-1] == "__main__":
        return "cli"
    return parts[1] if len(parts) > 1 else PACKAGE


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and (
        (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        or (isinstance(node.test, ast.Attribute) and node.test.attr == "TYPE_CHECKING")
    )


def imports(
    tree: ast.AST, module: str, *, package: bool, everywhere: bool = True
) -> Iterator[tuple[str, int]]:
    """Modules imported at run time, absolute, with their lines; ``everywhere``: in functions too."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # Each name may be a submodule; a name that is none resolves to its own module.
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif is_type_checking(node):
            assert isinstance(node, ast.If)
            todo.extend(node.orelse)
            continue
        elif not everywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        todo.extend(ast.iter_child_nodes(node))


MODULES = {module_name(path): path for path in FILES}


def ours(name: str) -> str | None:
    """The module of this package that an imported dotted name comes from, if any."""
    while name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def edges(path: Path, *, everywhere: bool) -> Iterator[tuple[str, str, int]]:
    """Imports of our own modules: who, whom, and the line."""
    module = module_name(path)
    found = imports(TREES[path], module, package=path.name == "__init__.py", everywhere=everywhere)
    for name, line in found:
        target = ours(name)
        if target is not None and target != module:
            yield module, target, line


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT.parent)}:{line}"


def with_what_they_import(paths: list[Path]) -> list[Path]:
    """The files and all modules of ours below them, packages left out: those only hold docstrings."""
    found, todo = set(paths), list(paths)
    while todo:
        for _module, target, _line in edges(todo.pop(), everywhere=True):
            path = MODULES[target]
            if path.name != "__init__.py" and path not in found:
                found.add(path)
                todo.append(path)
    return sorted(found)


PURE = with_what_they_import(PROMISED_PURE)


def test_every_module_is_in_a_room_of_the_list() -> None:
    assert {room(module) for module in MODULES} <= set(ROOMS)


def test_imports_go_down_the_list_only() -> None:
    # Imports inside functions count: a lazy import upwards is still an import upwards.
    up = [
        f"{where(path, line)} {module} imports {target}"
        for path in FILES
        for module, target, line in edges(path, everywhere=True)
        if ROOMS.index(room(target)) < ROOMS.index(room(module))
    ]
    assert not up, "\n".join(up)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every group of modules that import each other in a circle (Tarjan's strongly connected groups)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_module_takes_part_in_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        for module, target, _line in edges(path, everywhere=False):
            graph.setdefault(module, set()).add(target)
    assert not cycles(graph)


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_modules_decide_and_never_act(path: Path) -> None:
    tree = TREES[path]
    found = [
        f"{where(path, line)} imports {name}"
        for name, line in imports(tree, module_name(path), package=path.name == "__init__.py")
        if name.split(".")[0] in IMPURE
    ]
    found += [
        f"{where(path, node.lineno)} is async"
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]
    found += [
        f"{where(path, node.lineno)} calls {node.func.id}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"open", "input", "print", "__import__"}
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_offers(path: Path) -> None:
    names = {
        target.id
        for node in TREES[path].body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    empty = all(isinstance(node, ast.Expr) for node in TREES[path].body)
    assert empty or "__all__" in names or path.name == "__main__.py"
