"""The demo in a real terminal: the panel is drawn, Ctrl-C at the keyboard saves, the cursor comes back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")

from tests.cli.terminal import CONTROL_C, terminal


def test_the_panel_is_live_ctrl_c_saves_and_the_second_run_goes_on(tmp_path: Path) -> None:
    words = ("--hidden", "32", "--stop-at", "0", "--step-ms", "2")
    with terminal("demo", "--dir", tmp_path, *words, "--steps", "1000000") as first:
        first.read_until(r"(?s)async-ckpt demo.*accuracy .*held out.*Ctrl-C saves and stops")
        first.read_until(r"step \d{2,}, .*durable in")
        first.type(CONTROL_C)
        assert first.read_to_the_end() == 0
    stopped = re.search(r"stopped at step (\d+): ", first.text)
    assert stopped
    assert "start it again to go on from here" in first.text
    assert first.raw.rindex("\x1b[?25h") > first.raw.rindex("\x1b[?25l"), "the cursor stayed hidden"
    assert "Traceback" not in first.text

    with terminal("demo", "--dir", tmp_path, *words, "--steps", str(int(stopped[1]) + 10)) as second:
        assert second.read_to_the_end() == 0
    assert second.text.startswith(f"resumed from step {stopped[1]} in ")
    assert f"stopped at step {int(stopped[1]) + 10}: " in second.text
