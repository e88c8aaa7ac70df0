"""All mutants, room by room."""

from __future__ import annotations

from tests.reliability.mutants.committing import COMMITTING
from tests.reliability.mutants.failing import FAILING
from tests.reliability.mutants.listening import LISTENING
from tests.reliability.mutants.mutant import Mutant
from tests.reliability.mutants.reading import READING

__all__ = ["MUTANTS"]

MUTANTS: list[Mutant] = [*COMMITTING, *FAILING, *READING, *LISTENING]
