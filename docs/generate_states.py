"""Write ``states.md`` from the tables that the scheduler itself reads: ``python docs/generate_states.py``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from async_ckpt.core.machine import PHASES, SAVES, Phase, SaveState

PAGE = Path(__file__).with_name("states.md")

TEXT = """# The states

Written by `docs/generate_states.py` from the tables in `async_ckpt/core/machine.py`, which are also what the
scheduler decides by: there is no other place in which an arrow could hide. An input for which a state has no
arrow is a `ProtocolError` and changes nothing.

## The session

```mermaid
{session}
```

## One save

`held → preparing` happens when the slot is free, `written → committing` when the boundary is closed and it is
this hook's turn: these two arrows belong to no input.

```mermaid
{save}
```

## The same as tables

{session_table}

{save_table}
"""


def arrows(table: Mapping[Enum, Mapping[type, Enum]]) -> dict[tuple[str, str], list[str]]:
    """The inputs that lead from one state to another, by the two."""
    found: dict[tuple[str, str], list[str]] = {}
    for source, row in table.items():
        for given, target in row.items():
            found.setdefault((source.value, target.value), []).append(given.__name__)
    return found


def diagram(
    table: Mapping[Enum, Mapping[type, Enum]], first: list[Enum], last: list[Enum], more: str = ""
) -> str:
    """A state diagram in mermaid's language."""
    lines = ["stateDiagram-v2", *(f"    [*] --> {state.value}" for state in first)]
    for (source, target), inputs in arrows(table).items():
        lines.append(f"    {source} --> {target}: {', '.join(inputs)}")
    lines += [line for line in more.splitlines() if line]
    return "\n".join([*lines, *(f"    {state.value} --> [*]" for state in last)])


def listing(name: str, table: Mapping[Enum, Mapping[type, Enum]]) -> str:
    """A table of Markdown: state, input, next state."""
    lines = [f"| {name} | input | then |", "|---|---|---|"]
    for source, row in table.items():
        lines += [
            f"| {source.value} | `{given.__name__}` | {target.value} |" for given, target in row.items()
        ]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    joint = f"    {SaveState.HELD.value} --> {SaveState.PREPARING.value}\n"
    joint += f"    {SaveState.WRITTEN.value} --> {SaveState.COMMITTING.value}"
    return TEXT.format(
        session=diagram(PHASES, [Phase.NEW], [Phase.CLOSED]),
        save=diagram(SAVES, [SaveState.HELD, SaveState.PREPARING], [SaveState.OVER], joint),
        session_table=listing("session", PHASES),
        save_table=listing("save", SAVES),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
