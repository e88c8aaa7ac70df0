"""The smallest whole run: train, save beside the training, stop by vote, resume when started again.

python examples/minimal.py [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, CheckpointSaverListener, MonitoredTrainingSession

TARGET = np.linspace(-1.0, 1.0, 1000)
state: dict[str, Any] = {"weights": np.zeros(1000), "updates": 0}


def train_step() -> None:
    """Move the weights a little towards the target; runs in the session's trainer thread."""
    state["weights"] += 0.01 * (TARGET - state["weights"])
    state["updates"] += 1


class StopWhenGood(CheckpointSaverListener):
    """Looks at every checkpoint as it was saved, and votes to stop once it is close enough."""

    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> Any:
        saved = await session.saved_state()
        error = float(np.abs(saved["weights"] - TARGET).max())
        session.report({"error": error})
        print(f"checkpoint {global_step_value}: error {error:.3f}", flush=True)
        return error < 0.05


async def main(directory: str) -> None:
    saver_hook = CheckpointSaverHook(directory, state, save_steps=50, listeners=[StopWhenGood()])
    async with MonitoredTrainingSession(chief_only_hooks=[saver_hook]) as session:
        print(f"starting at step {session.global_step}", flush=True)
        while not session.should_stop():
            await session.run(train_step)
    print(f"stopped at step {session.global_step}: {session.stop_reason}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "runs/minimal"))
