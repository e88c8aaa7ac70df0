"""Saving beside the next step: the copy of the state runs while gradients are computed.

python examples/overlap.py [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, Saver, StopAtStepHook

TARGET = np.linspace(-1.0, 1.0, 200_000)
state: dict[str, Any] = {"weights": np.zeros_like(TARGET), "frozen": {"table": np.arange(1000.0)}}


def gradient() -> Any:
    """Only look at the state: the long part of a step."""
    return state["weights"] - TARGET


async def main(directory: str) -> None:
    # Whoever is not sure that each change is inside mutating() lets the saver look: validate_staging=True.
    async with Saver(directory, staging="overlap", reuse_unchanged=True, validate_staging=True) as saver:
        hooks = [CheckpointSaverHook(saver, state, save_steps=10), StopAtStepHook(last_step=40)]
        async with MonitoredTrainingSession(hooks=hooks) as session:
            print(f"starting at step {session.global_step}", flush=True)

            def train_step() -> None:
                slope = gradient()
                # Waits for a copy that is still running, and keeps the next one out.
                with session.mutating():
                    state["weights"] -= 0.1 * slope

            while not session.should_stop():
                await session.run(train_step)
        for checkpoint in await saver.checkpoints():
            print(f"checkpoint {checkpoint.step}: {checkpoint.bytes} bytes", flush=True)
    print(f"stopped at step {session.global_step}: error {np.abs(gradient()).max():.3f}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "runs/overlap"))
