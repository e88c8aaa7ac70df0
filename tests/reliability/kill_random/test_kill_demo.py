"""``kill -9`` at random moments of the demo: what it called durable stays, and nothing torn is ever listed.

``ASYNC_CKPT_KILLS`` sets how many; ``ASYNC_CKPT_SEED`` repeats the draws of a run (the exact moments are the
machine's).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")

from async_ckpt import Saver
from tests.demo.lives import Life, run, small, tensors
from tests.reliability.tier import SEED

KILLS = int(os.environ.get("ASYNC_CKPT_KILLS", "12"))
SAVE_STEPS = 3


def owed(acknowledged: dict[int, float]) -> set[int]:
    """What retention may not have deleted: the newest three, and the best two (of equals the newer)."""
    newest = sorted(acknowledged)[-3:]
    best = sorted(acknowledged, key=lambda step: (acknowledged[step], step))[-2:]
    return {*newest, *best}


async def verified(directory: Path) -> list[int]:
    """The listed steps, every byte of each of them read and checked."""
    async with Saver(directory) as saver:
        listed = [checkpoint.step for checkpoint in await saver.checkpoints()]
        for step in listed:
            await saver.verify(step)
    return listed


@pytest.mark.timeout(60 + 5 * KILLS)
def test_kill_9_at_random_moments_loses_nothing_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = random.Random(SEED)
    directory = tmp_path / "run"
    acknowledged: dict[int, float] = {}
    newest: int | None = None
    checked = unfinished = 0

    for kill in range(KILLS):
        life = Life(directory, *small(save_steps=SAVE_STEPS, steps=10**9))
        first = next(iter(life))
        expected = "started at step 0 " if newest is None else f"resumed from step {newest} "
        assert first.startswith(expected), f"kill {kill}, seed {SEED}: {first!r} instead of {expected!r}"
        for _ in range(draws.randrange(12)):
            life.wait_for("saved ")
        # Anywhere within the next few saves: in a step, a write, a rename, a deletion, an evaluation.
        time.sleep(draws.random() * 0.03)
        life.kill()
        acknowledged |= life.acknowledged
        unfinished += any(path.name.startswith((".tmp-", ".trash-")) for path in directory.iterdir())

        listed = asyncio.run(verified(directory))
        checked += len(listed)
        lost = owed(acknowledged) - set(listed)
        assert not lost, f"kill {kill}, seed {SEED}: acknowledged and gone: {sorted(lost)} of {listed}"
        assert all(step % SAVE_STEPS == 0 for step in listed)
        newest = max(listed, default=None)

    assert newest is not None
    last = newest + SAVE_STEPS
    words = small(save_steps=SAVE_STEPS, steps=last)
    assert run(directory, *words)[0].startswith(f"resumed from step {newest} ")
    run(tmp_path / "undisturbed", *words)
    assert tensors(directory, last) == tensors(tmp_path / "undisturbed", last)
    counts = (
        f"{KILLS} kills, seed {SEED}: {len(acknowledged)} checkpoints acknowledged, 0 lost; "
        f"{checked} listed and verified, 0 torn; {unfinished} kills left something unfinished; "
        f"step {last} equals an undisturbed run"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{counts}\n")
