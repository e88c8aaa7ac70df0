"""``DIR`` and ``DIR@STEP``: what the subcommands take as the place of a checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from async_ckpt.cli.outcome import Exit, Refused

__all__ = ["Place"]

# ASCII digits only, and never more than a step may have.
_STEP = re.compile(r"[0-9]{1,19}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of checkpoints, and maybe one of them.

    Attributes:
        directory: As it was given.
        step: Which checkpoint; None is the newest valid one.
    """

    directory: Path
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``DIR``, ``DIR@STEP`` or ``DIR@latest``; a directory that is there under the whole text wins.

        Raises:
            Refused: There is no such directory, or the step is none.
        """
        whole = Path(text)
        if "@" not in text or whole.is_dir():
            return cls(_directory(whole))
        name, _, step = text.rpartition("@")
        if step != "latest" and not _STEP.match(step):
            raise Refused(f"{text}: the step behind @ is a number or 'latest', not {step!r}")
        return cls(_directory(Path(name)), None if step == "latest" else int(step))

    @classmethod
    def parse_directory(cls, text: str) -> Place:
        """Read ``DIR``, where all its checkpoints are meant.

        Raises:
            Refused: There is no such directory, or one of its checkpoints is named.
        """
        place = cls.parse(text)
        if place.directory != Path(text):
            raise Refused(f"{text}: this is for a whole directory; give {place.directory}, without @")
        return place

    def __str__(self) -> str:
        return str(self.directory) if self.step is None else f"{self.directory}@{self.step}"


def _directory(path: Path) -> Path:
    if path.is_dir():
        return path
    what = "is not a directory" if path.exists() else "there is no such directory"
    raise Refused(f"{path}: {what}", code=Exit.IO)
