"""The public face: every name is there, documented, typed, and comes from where it lives."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import async_ckpt
import async_ckpt.saver

# The contract: what code outside this repository imports from the top level.
PROMISED = {
    *("CheckpointSaverHook", "CheckpointSaverListener", "MonitoredTrainingSession", "Saver", "Checkpoint"),
    *("SessionRunHook", "StopAtStepHook", "StepCounterHook", "LoggingHook", "NanGuardHook", "Stop"),
    *("any_of", "all_of", "at_least", "PendingSave", "Restored", "StepRun"),
    *("CheckpointError", "ListenerError", "SaveError", "UnsupportedLeafError", "RestoreError"),
    *("NoCheckpointError", "DamagedCheckpointError", "StructureMismatchError", "FormatVersionError"),
    *("DirectoryLockedError", "SessionStopped", "ProtocolError"),
}

MODULES = [
    info.name
    for info in pkgutil.walk_packages(async_ckpt.__path__, "async_ckpt.")
    if not info.name.endswith("__main__") and not info.name.startswith("async_ckpt.cli")
]


def own_public_names(module: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def test_every_promised_name_is_importable_from_the_top() -> None:
    assert set(async_ckpt.__all__) >= PROMISED
    for name in async_ckpt.__all__:
        assert hasattr(async_ckpt, name), name


def test_the_top_level_exports_nothing_by_accident() -> None:
    public = {
        name
        for name in dir(async_ckpt)
        if not name.startswith("_")
        and not inspect.ismodule(getattr(async_ckpt, name))
        and name != "annotations"
    }
    assert public == set(async_ckpt.__all__) - {"__version__"}


@pytest.mark.parametrize("package", [async_ckpt, async_ckpt.saver], ids=lambda package: package.__name__)
def test_what_type_checkers_are_told_is_what_is_imported(package: ModuleType) -> None:
    tree = ast.parse(Path(package.__file__ or "").read_text("utf-8"))
    told = {
        alias.name: node.module
        for guarded in ast.walk(tree)
        if isinstance(guarded, ast.If)
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    imported = {
        name: f"{package.__name__}.{module}" for module, names in package._PLACES.items() for name in names
    }
    assert told == imported
    assert set(imported) == set(package.__all__) - {"__version__"}


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Sevar"):
        async_ckpt.Sevar  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_each_module_lists_what_it_defines_and_nothing_else(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {"jax", "torch"}:
            raise
        pytest.skip(f"{error.name} is optional and not installed")
    listed = set(getattr(module, "__all__", ()))
    for entry in listed:
        assert hasattr(module, entry), f"{name}.__all__ names {entry}, which does not exist"
    assert own_public_names(module) <= listed


def public_members() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name in async_ckpt.__all__:
        value = getattr(async_ckpt, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        found.append((name, value))
        if inspect.isclass(value):
            found += [
                (f"{name}.{key}", getattr(value, key))
                for key, raw in vars(value).items()
                if not key.startswith("_")
                and (inspect.isfunction(raw) or isinstance(raw, property | classmethod | staticmethod))
            ]
    return found


@pytest.mark.parametrize("member", public_members(), ids=lambda member: member[0])
def test_everything_public_is_documented(member: tuple[str, object]) -> None:
    name, value = member
    assert (inspect.getdoc(value) or "").strip(), f"{name} has no docstring"


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(async_ckpt.__path__[0]) / "py.typed").exists()


def test_importing_it_loads_no_framework_and_no_command_line() -> None:
    import subprocess
    import sys

    heavy = ["torch", "jax", "sklearn", "rich", "argparse", "pytest", "hypothesis", "uvloop"]
    code = f"import sys, async_ckpt; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
