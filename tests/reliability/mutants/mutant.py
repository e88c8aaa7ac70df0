"""A safeguard taken out: one exact replacement in the source, and the tiers that have to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Killer", "Mutant", "StaleMutantError"]


class StaleMutantError(AssertionError):
    """The source no longer reads as the mutant expects."""


@dataclass(frozen=True)
class Killer:
    """A few tests of a tier that a mutant is to be tried on.

    Attributes:
        tests: File or test id below ``tests/reliability``; its first part is the tier's folder.
        only: What pytest's ``-k`` chooses of them; empty for all.
        size: Of the run; never above the tier's CI size.
    """

    tests: str
    only: str = ""
    size: str = "quick"

    def __str__(self) -> str:
        tier = self.tests.partition("/")[0].removesuffix(".py").replace("_", " ")
        return tier if self.size == "quick" else f"{tier}, {self.size}"


@dataclass(frozen=True)
class Mutant:
    """One safeguard less.

    Attributes:
        name: A few words.
        safeguard: What is taken out, as a sentence would say it: "the ... is not ...".
        file: Below ``async_ckpt``.
        old: What stands there, exactly once.
        new: What stands there instead.
        killers: Where to look, cheapest first.
    """

    name: str
    safeguard: str
    file: str
    old: str
    new: str
    killers: tuple[Killer, ...]

    def applied(self, source: str) -> str:
        """Give the source with the safeguard taken out.

        Raises:
            StaleMutantError: ``old`` is not there exactly once.
        """
        found = source.count(self.old)
        if found != 1:
            raise StaleMutantError(
                f"mutant {self.name!r} is stale: what it replaces in async_ckpt/{self.file} is there "
                f"{found} times; give it the text that is there now:\n{self.old}"
            )
        return source.replace(self.old, self.new)

    def read(self, package: Path) -> str:
        """Give its file as it is in a package."""
        return (package / self.file).read_text(encoding="utf-8")
