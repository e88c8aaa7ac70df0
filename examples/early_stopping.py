"""Early stopping whose patience survives a restart.

The model has more weights than examples, so its error on held-out data falls and then rises again.

    python examples/early_stopping.py [DIRECTORY [LAST_STEP]]

Stop it anywhere and start it again: it stops for good at the step at which an undisturbed run does.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import numpy as np

from async_ckpt import (
    BestN,
    CheckpointSaverHook,
    CheckpointSaverListener,
    LatestN,
    MonitoredTrainingSession,
    Stop,
    StopAtStepHook,
)

rng = np.random.default_rng(7)
truth = rng.standard_normal(60)
inputs, held_inputs = rng.standard_normal((50, 60)), rng.standard_normal((200, 60))
outputs = inputs @ truth + 4.0 * rng.standard_normal(50)
held_outputs = held_inputs @ truth
state = {"weights": np.zeros(60)}


def train_step() -> None:
    error = inputs @ state["weights"] - outputs
    state["weights"] -= 0.001 * (inputs.T @ error)


class Patience(CheckpointSaverListener):
    """Votes to stop when ``patience`` checkpoints in a row were no better than the best before them."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best, self.best_step, self.waited = float("inf"), 0, 0

    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> Any:
        weights = (await session.saved_state())["weights"]
        error = float(np.square(held_inputs @ weights - held_outputs).mean())
        session.report({"held_out_error": error})
        if error < self.best:
            self.best, self.best_step, self.waited = error, global_step_value, 0
        else:
            self.waited += 1
        print(f"checkpoint {global_step_value}: {error:.4f}, waited {self.waited}", flush=True)
        return self.waited >= self.patience and Stop(f"best was {self.best:.4f} at step {self.best_step}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = saved["best"], saved["best_step"], saved["waited"]


async def main(directory: str, last_step: int) -> None:
    saver_hook = CheckpointSaverHook(
        directory,
        state,
        save_steps=5,
        listeners=[Patience(4)],
        keep=[LatestN(2), BestN(1, "held_out_error", mode="min")],
        honor_stop="next_save",  # the vote counts at the next save: the same stop step on every run
    )
    async with MonitoredTrainingSession(
        chief_only_hooks=[saver_hook],
        hooks=[StopAtStepHook(last_step=last_step)],
        handle_signals=(signal.SIGTERM, signal.SIGINT),
    ) as session:
        print(f"starting at step {session.global_step}", flush=True)
        while not session.should_stop():
            await session.run(train_step)
    print(f"stopped at step {session.global_step}: {session.stop_reason}")


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:2] or ["runs/early_stopping"]), int((sys.argv[2:] or ["1000"])[0])))
