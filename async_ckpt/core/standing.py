"""May the state be saved as it stands? Where it stands between two steps, and what follows from that.

A state belongs to a step once the step is counted and every ``check`` has passed it. Everything else is a
matter of who vouches for it: a caller who goes on after an error of a step has judged it, one who leaves
with the error has not, and nobody can judge what a cancellation cut through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "MOVES",
    "SAVED_AT",
    "Exit",
    "Happening",
    "LastRound",
    "Occasion",
    "Standing",
    "last_round",
    "refusal",
]

Standing = Literal["entering", "whole", "midway", "unchecked", "torn"]
"""Where the state stands.

``"entering"``: the session is not entered yet, and what is there may be half restored.
``"whole"``: it is the state of the last step.
``"midway"``: a step is under way, or has failed, or is going on in the caller's own loop.
``"unchecked"``: the step is counted, and its checks have not all passed.
``"torn"``: a step was cancelled in the middle.
"""

Happening = Literal["entered", "began", "counted", "checked", "cancelled", "joined", "went on"]
"""What happens to it.

``"joined"``: a plain function was cancelled, which cannot be, and has come to its end and been counted.
``"went on"``: the caller's own loop has got control back, and the next step may be under way.
"""

MOVES: dict[Standing, dict[Happening, Standing]] = {
    "entering": {
        "entered": "whole",
        "began": "entering",
        "counted": "entering",
        "checked": "entering",
        "cancelled": "entering",
        "joined": "entering",
        "went on": "entering",
    },
    "whole": {
        "entered": "whole",
        "began": "midway",
        "counted": "unchecked",
        "checked": "whole",
        "cancelled": "torn",
        "joined": "whole",
        "went on": "midway",
    },
    "midway": {
        "entered": "midway",
        "began": "midway",
        "counted": "unchecked",
        "checked": "midway",
        "cancelled": "torn",
        "joined": "whole",
        "went on": "midway",
    },
    # A step that begins makes neither of these two any better; only one that is counted does.
    "unchecked": {
        "entered": "unchecked",
        "began": "unchecked",
        "counted": "unchecked",
        "checked": "whole",
        "cancelled": "torn",
        "joined": "unchecked",
        "went on": "unchecked",
    },
    "torn": {
        "entered": "torn",
        "began": "torn",
        "counted": "unchecked",
        "checked": "torn",
        "cancelled": "torn",
        "joined": "torn",
        "went on": "torn",
    },
}

Occasion = Literal["asked", "clean exit", "exit with an error"]

SAVED_AT: dict[Standing, frozenset[Occasion]] = {
    "entering": frozenset(),
    "whole": frozenset({"asked", "clean exit", "exit with an error"}),
    "midway": frozenset({"asked", "clean exit"}),
    "unchecked": frozenset(),
    "torn": frozenset(),
}
"""On which occasions between steps a state is saved; those within a step's own boundary need no leave."""

_WHY: dict[Standing, str] = {
    "entering": "the session is not entered yet: what is there may be half restored",
    "unchecked": "a check refused the state of this step: nothing of it can be saved",
    "torn": "the last step was cancelled in the middle: its state is at no boundary and is not saved",
}

LastRound = Literal["final", "asked", "left out", "none"]
"""What the exit saves.

``"final"``: every saver hook whose last step is not durable.
``"asked"``: what somebody still waits for.
``"left out"``: nothing, and nobody has been told why.
"""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a session is left.

    Attributes:
        clean: Without an error, or because it had stopped.
        final_save: As the session was told.
        asked: Whether somebody waits for a ``save()``.
        able: Whether a round can still be taken: the grace period is not over, and no boundary is open.
    """

    clean: bool
    final_save: Literal["clean", "never", "always"]
    asked: bool
    able: bool


def refusal(standing: Standing) -> str | None:
    """Why a ``save()`` between steps has to be refused, or None."""
    return None if "asked" in SAVED_AT[standing] else _WHY[standing]


def last_round(standing: Standing, leaving: Exit) -> LastRound:
    """Tell what the exit saves."""
    wanted = leaving.final_save == "always" or (leaving.clean and leaving.final_save == "clean")
    occasion: Occasion = "clean exit" if leaving.clean else "exit with an error"
    if occasion in SAVED_AT[standing]:
        if not leaving.able:
            return "none"
        if wanted:
            return "final"
        return "asked" if leaving.asked and leaving.clean else "none"
    # A check that refused has raised its error where the caller could hear it; a cancellation has not.
    return "left out" if standing == "torn" and leaving.clean and wanted else "none"
