"""All mutants, room by room."""

from __future__ import annotations

from tests.reliability.mutants.committing import COMMITTING
from tests.reliability.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: list[Mutant] = [*COMMITTING]
