"""What may stand in a checkpoint directory, by name. Pure.

Names are matched in ASCII and in full: ``int`` reads full-width digits, underscores and blanks, so
nothing here is decided by whether a name "parses as a number".
"""

from __future__ import annotations

import re

__all__ = [
    "ABANDONED",
    "LEASE",
    "LOCK",
    "MANIFEST",
    "PIN",
    "PINS",
    "REPLACED",
    "REPORT",
    "TEMP",
    "TRASH",
    "check_file_name",
    "check_step",
    "group_of",
    "is_file_name",
    "parse_step",
    "shard_name",
    "step_after",
    "step_name",
]

MANIFEST = "manifest.json"
REPORT = "report.json"
LOCK = ".lock"
PINS = ".pins"
TEMP = ".tmp-"
TRASH = ".trash-"
REPLACED = ".trash-replaced-"
ABANDONED = ".abandoned-"
PIN = "pin-"
LEASE = "lease-"

_STEP = re.compile(r"step-([0-9]{8,19})", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_SHARD = re.compile(r".+-[0-9]{5,}-of-[0-9]{5,}\.safetensors", re.ASCII)
_MAX_STEP = 10**19 - 1
_WIDTH = 8


def shard_name(group: str, number: int, of: int) -> str:
    """Name a tensor file of a group, counted from 1."""
    return f"{group}-{number:05d}-of-{of:05d}.safetensors"


def group_of(name: str) -> str:
    """The group of a tensor file, by its name; the whole of a name that :func:`shard_name` does not give."""
    return name.rsplit("-", 3)[0] if _SHARD.fullmatch(name) else name


def step_name(step: int) -> str:
    """Name the directory of ``step``: at least eight digits."""
    return f"step-{step:0{_WIDTH}d}"


def parse_step(name: str) -> int | None:
    """Read the step from a directory's name; None for every name that :func:`step_name` does not give."""
    found = _STEP.fullmatch(name)
    if found is None:
        return None
    step = int(found[1])
    return step if step_name(step) == name else None


def step_after(prefix: str, name: str) -> int | None:
    """Read the step from ``<prefix>step-<digits>`` or ``<prefix>step-<digits>-<anything>``."""
    if not name.startswith(prefix):
        return None
    head = name.removeprefix(prefix).split("-")[:2]
    return parse_step("-".join(head))


def check_step(step: int) -> None:
    """Check that ``step`` can be a directory's name.

    Raises:
        ValueError: It is negative or has more than 19 digits.
    """
    if not 0 <= step <= _MAX_STEP:
        msg = f"a step must lie between 0 and {_MAX_STEP}, not {step}"
        raise ValueError(msg)


def is_file_name(name: str) -> bool:
    """Say whether ``name`` is one path component that every file system takes literally."""
    return _FILE.fullmatch(name) is not None and not name.endswith(".")


def check_file_name(name: str) -> None:
    """Check a file's name.

    Raises:
        ValueError: It is not one path component of ASCII letters, digits, ``.``, ``_`` and ``-``.
    """
    if not is_file_name(name):
        msg = f"not a file name that a checkpoint may use: {name!r}"
        raise ValueError(msg)
