"""The README and the pages in docs/ say nothing that is not so: example, commands, links and named tests."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title!r}"
    return found[1]


def fenced(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_quick_start_is_two_commands_of_one_line_each() -> None:
    blocks = fenced(section(README.read_text("utf-8"), "Quick start"))
    assert len(blocks) == 2
    demo, tests = (block.strip() for block in blocks)
    assert "\n" not in demo + tests
    assert demo.endswith(".venv/bin/async-ckpt demo")
    assert "-m pytest" in tests
    for command in (demo, tests):
        assert command.startswith("python3 -m venv .venv && ")
        assert "-e '.[demo]'" in command


def test_the_example_runs_and_a_second_run_starts_where_it_stopped(tmp_path: Path) -> None:
    code = fenced(section(README.read_text("utf-8"), "The whole thing on one page"))[0]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines())
    assert lines[0][0] == "starting at step 0"
    stopped = re.fullmatch(r"stopped at step (\d+)", lines[0][1])
    assert stopped
    assert lines[1][0] == f"starting at step {stopped[1]}"
    newest = tmp_path / "runs" / "readme" / f"step-{int(stopped[1]):08d}"
    names = {path.name for path in newest.iterdir()}
    assert names == {"manifest.json", "report.json", "state-00001-of-00001.safetensors"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_a_page_names_is_there(page: Path) -> None:
    file = ""
    for named, function in re.findall(r"(tests/[\w/]+\.py)?(?:::(\w+))?", page.read_text("utf-8")):
        if not (named or function):
            continue
        file = named or file
        assert (ROOT / file).exists(), f"{page.name} names {file}"
        if function:
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            defined = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            }
            assert function in defined, f"{page.name} names {file}::{function}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_tree_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_promise_names_the_test_that_holds_it() -> None:
    rows = [
        line
        for line in section(README.read_text("utf-8"), "What it promises").splitlines()
        if line.startswith("| ")
    ]
    assert len(rows) >= 10
    for row in rows[1:]:
        assert re.search(r"tests/[\w/]+\.py", row), row
