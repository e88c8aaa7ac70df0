"""The listener: measures every checkpoint on scans the model never saw, and votes to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from async_ckpt.cli.demo import model
from async_ckpt.listeners import CheckpointSaverListener, Stop
from async_ckpt.system.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_ckpt.cli.demo.data import Digits
    from async_ckpt.session import MonitoredTrainingSession

__all__ = ["Evaluator"]


class Evaluator(CheckpointSaverListener):
    """Reports the accuracy of each checkpoint, and votes once it is good enough.

    The best accuracy so far is part of the checkpoint, so a second run knows what the first reached.

    Args:
        digits: Where the held-out scans come from.
        goal: Accuracy from 0 to 1 at which it votes to stop; 0 never votes.
        on_measured: Called with the step and its accuracy when both are known.

    Attributes:
        best: Best accuracy of any checkpoint, earlier runs included.
        best_step: Its step, or None before the first measurement.
    """

    name = "evaluator"

    def __init__(self, digits: Digits, goal: float, on_measured: Callable[[int, float], None]) -> None:
        self.best = 0.0
        self.best_step: int | None = None
        self._digits = digits
        self._goal = goal
        self._on_measured = on_measured
        self._worker = Worker("demo-evaluate")

    @property
    def reached(self) -> bool:
        """Whether some checkpoint was good enough."""
        return 0 < self._goal <= self.best

    async def after_save(self, session: MonitoredTrainingSession, global_step_value: int) -> Any:
        """Measure what the checkpoint holds: the live weights are already some steps further on."""
        saved = await session.saved_state()
        accuracy = await self._worker.call(
            model.accuracy, saved["model"], self._digits.held_images, self._digits.held_labels
        )
        session.report({"accuracy": accuracy})
        if accuracy > self.best or self.best_step is None:
            self.best, self.best_step = accuracy, global_step_value
        self._on_measured(global_step_value, accuracy)
        if 0 < self._goal <= accuracy:
            return Stop(f"accuracy {accuracy:.1%} on held-out digits")
        return None

    async def end(self, session: MonitoredTrainingSession, global_step_value: int) -> None:  # noqa: ARG002
        """Let the thread go."""
        self._worker.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later run has to know."""
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where the run that wrote the checkpoint stopped."""
        self.best = float(state["best"])
        self.best_step = state["best_step"]
