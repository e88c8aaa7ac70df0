"""Options that several subcommands take."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

__all__ = ["Flag", "Json"]

Flag: TypeAlias = Annotated[bool, Parameter(negative="")]
Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
