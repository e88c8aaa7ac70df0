"""The demo in a real terminal: the panel is drawn, Ctrl-C at the keyboard saves, the cursor comes back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")

from tests.cli.command import flip
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


def test_a_damaged_checkpoint_is_told_in_a_line_and_does_not_tear_the_panel(tmp_path: Path) -> None:
    words = ("--dir", tmp_path, "--hidden", "32", "--stop-at", "0", "--step-ms", "0")
    with terminal("demo", *words, "--steps", "40") as first:
        assert first.read_to_the_end() == 0
    flip(tmp_path / "step-00000040" / "model-00001-of-00001.safetensors")
    with terminal("demo", *words, "--steps", "60") as second:
        assert second.read_to_the_end() == 0
    assert second.text.startswith("trouble: checkpoint 40 passed over: ")
    assert "resumed from step 20" in second.text
    assert "RuntimeWarning" not in second.text
    there = sorted(int(path.name.removeprefix("step-")) for path in tmp_path.glob("step-*"))
    assert f"on disk: {', '.join(map(str, there))}\r\n" in second.text
