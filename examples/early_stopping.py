"""Early stopping whose patience survives a restart.

With more weights than examples the error on held-out data falls and then rises again.
Stop it anywhere and start it again: it ends at the step at which an undisturbed run ends.

    python examples/early_stopping.py [DIRECTORY [LAST_STEP]]
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import numpy as np

import async_ckpt as ac

rng = np.random.default_rng(7)
truth = rng.standard_normal(60)
inputs, held_inputs = rng.standard_normal((50, 60)), rng.standard_normal((200, 60))
outputs = inputs @ truth + 4.0 * rng.standard_normal(50)
held_outputs = held_inputs @ truth
state = {"weights": np.zeros(60)}


def train_step() -> None:
    state["weights"] -= 0.001 * (inputs.T @ (inputs @ state["weights"] - outputs))


class Patience(ac.CheckpointSaverListener):
    """Votes to stop when ``patience`` checkpoints in a row were no better than the best before them."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best, self.best_step, self.waited = float("inf"), 0, 0

    async def after_save(self, session: ac.MonitoredTrainingSession, global_step_value: int) -> Any:
        weights = (await session.saved_state())["weights"]
        error = float(np.square(held_inputs @ weights - held_outputs).mean())
        session.report({"held_out_error": error})
        self.waited += 1
        if error < self.best:
            self.best, self.best_step, self.waited = error, global_step_value, 0
        print(f"checkpoint {global_step_value}: {error:.4f}, waited {self.waited}", flush=True)
        return self.waited >= self.patience and ac.Stop(f"best {self.best:.4f} at step {self.best_step}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = saved["best"], saved["best_step"], saved["waited"]


async def main(directory: str = "runs/early_stopping", last_step: str = "1000") -> None:
    saver_hook = ac.CheckpointSaverHook(
        directory,
        state,
        save_steps=5,
        listeners=[Patience(4)],
        keep=[ac.LatestN(2), ac.BestN(1, "held_out_error", mode="min")],
        honor_stop="next_save",  # a vote counts at the next save: the same stop step on every run
    )
    async with ac.MonitoredTrainingSession(
        chief_only_hooks=[saver_hook],
        hooks=[ac.StopAtStepHook(last_step=int(last_step))],
        handle_signals=(signal.SIGTERM, signal.SIGINT),
    ) as session:
        print(f"starting at step {session.global_step}", flush=True)
        while not session.should_stop():
            await session.run(train_step)
    print(f"stopped at step {session.global_step}: {session.stop_reason}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
