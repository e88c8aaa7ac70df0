"""Draw the pictures of the README from what the real command shows: ``python docs/make_screenshots.py``.

The command runs in tmux, which is the terminal; what stands on its screen, colours included, becomes an SVG.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent / "screenshots"
WIDTH, HEIGHT = 104, 30
SESSION = "async-ckpt-screenshots"


def tmux(*words: str) -> str:
    """Speak to tmux and return what it says."""
    return subprocess.run(["tmux", *words], check=True, capture_output=True, text=True).stdout


def screen(until: str, command: str, patience: float = 60.0) -> str:
    """Run a command in a terminal and return its screen, with colours, once ``until`` stands on it."""
    tmux("new-session", "-d", "-s", SESSION, "-x", str(WIDTH), "-y", str(HEIGHT), f"{command}; sleep 60")
    try:
        deadline = time.monotonic() + patience
        while until not in tmux("capture-pane", "-p", "-t", SESSION):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{command!r} never showed {until!r}")
            time.sleep(0.2)
        time.sleep(0.5)
        return tmux("capture-pane", "-e", "-p", "-t", SESSION).rstrip("\n")
    finally:
        tmux("kill-session", "-t", SESSION)


def draw(name: str, shown: str, typed: str) -> None:
    """Keep a screen as a picture, below the command that brought it."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.assemble(("$ ", "bold green"), (typed, "bold")))
    console.print(Text.from_ansi(shown))
    console.save_svg(str(HERE / f"{name}.svg"), title="async-ckpt")


def main() -> None:
    """Draw them all."""
    if shutil.which("tmux") is None:
        sys.exit("tmux is not installed")
    HERE.mkdir(exist_ok=True)
    program = f"{sys.executable} -m async_ckpt"
    with tempfile.TemporaryDirectory() as place:
        run = f"cd {place} && {program}"
        demo = "demo --dir runs/digits"
        draw("demo", screen("step 280, ", f"{run} {demo}", 120), f"async-ckpt {demo}")
        draw("ls", screen("valid", f"{run} ls runs/digits"), "async-ckpt ls runs/digits")
        # The two newest.
        listed = subprocess.run(
            [sys.executable, "-m", "async_ckpt", "ls", "runs/digits"],
            cwd=place, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        newest, before = (line.split()[0] for line in listed.splitlines()[1:3])
        words = f"diff runs/digits@{before} runs/digits@{newest}"
        draw("diff", screen("rng", f"{run} {words}"), f"async-ckpt {words}")


if __name__ == "__main__":
    main()
