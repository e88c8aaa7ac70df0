"""The pages say what is: examples run, generated parts are up to date, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from async_ckpt import events

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    code = "\n".join(blocks(DOCS / "tutorial.md"))
    assert code.count("asyncio.run") == 5
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("StopWhenGood")
    assert (tmp_path / "runs" / "tutorial" / "events.jsonl").exists()


def test_the_page_of_states_is_what_the_tables_say() -> None:
    spec = importlib.util.spec_from_file_location("generate_states", DOCS / "generate_states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (DOCS / "states.md").read_text("utf-8")
    assert module.page() == written, "run: python docs/generate_states.py"


def test_every_command_and_exit_code_is_on_the_page_for_operators() -> None:
    pytest.importorskip("rich")
    from async_ckpt.cli.app import COMMANDS
    from async_ckpt.cli.outcome import Exit

    page = (DOCS / "operating.md").read_text("utf-8")
    for command in COMMANDS:
        assert f"`{command}" in page
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == {
        int(code) for code in Exit
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        there = page if not target else DOCS / target
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
            assert anchor[1:] in slugs, f"{page.name} links to {target}{anchor}"


def test_every_page_is_in_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES:
        assert page.name in site, f"{page.name} is not in mkdocs.yml"


def test_every_event_is_documented() -> None:
    for name in events.__all__:
        assert getattr(events, name).__doc__
