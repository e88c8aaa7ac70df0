"""What may be in a directory, given what was said about it. Pure.

Hears the marks of :func:`tests.reliability.tracing.scenarios.perform`, of one life or of several that were
cut short, and objects to every one that does not fit those before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.reliability.tracing.scenarios import CALM, HOT, Scenario

__all__ = ["Oracle"]


@dataclass(frozen=True)
class _Condition:
    """If ``step`` is there with ``code``, then those of ``gone`` may not be there any more."""

    step: int
    code: int
    gone: frozenset[int]


@dataclass
class Oracle:
    """Knows what may be there: for each step the codes, and None where it may be absent.

    Attributes:
        wrong: What does not fit, in words.
        verdicts: How many acts came to what.
        conditions: What is gone only if something else is there; known at the next look.
        strict: Whether nothing but a kill may go wrong.
        exchanges: Whether names can be exchanged.
    """

    keep: int | None
    may: dict[int, set[int | None]]
    wrong: list[str] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    _begun: tuple[str, int, int] | None = None
    conditions: list[_Condition] = field(default_factory=list)
    _pinned: set[int] = field(default_factory=set)
    strict: bool = False
    exchanges: bool = True
    _calm: bool = False

    @classmethod
    def of(cls, scenario: Scenario, *, strict: bool) -> Oracle:
        """Know what was there before."""
        may: dict[int, set[int | None]] = {}
        for what in scenario.before:
            may[what.step] = {what.code + 50}
        keep = scenario.options.get("max_to_keep", 5)
        return cls(keep, may, strict=strict, exchanges=scenario.exchanges)

    def hear(self, marks: Iterable[str]) -> None:
        """Judge the marks of one life."""
        for said in marks:
            if said in {CALM, HOT}:
                self._calm = said == CALM
                continue
            if said.startswith("left/"):
                self.wrong.append(f"after the close there is still: {said.removeprefix('left/')}")
                continue
            kind, *words = said.split("/", 4)
            if kind == "begin":
                self._begun = words[0], int(words[1]), int(words[2])
            else:
                self._begun = None
                self._judge(kind, int(words[0]), int(words[1]), words[2], words[3])

    def killed(self) -> None:
        """A life was cut short: what was begun may have happened."""
        if self._begun is None:
            return
        kind, step, code = self._begun
        self._begun = None
        if kind == "save":
            self._may(step).add(code)
            self.conditions.append(_Condition(step, code, self._surplus(step)))
        elif kind == "delete":
            self._may(step).add(None)
        elif kind == "abandon":
            self._abandon(step)
        elif kind == "unpin":
            self._pinned.discard(step)

    def _judge(self, kind: str, step: int, code: int, verdict: str, found: str) -> None:
        name = f"{kind} {step}: {verdict}"
        self.verdicts[f"{kind} {verdict}"] = self.verdicts.get(f"{kind} {verdict}", 0) + 1
        fine = (
            verdict == "ok"
            or (kind == "cancel" and verdict == "cancelled")
            or (kind == "restore" and verdict == "NoCheckpointError" and not self._sure())
            or (kind == "delete" and verdict == "ProtocolError" and step in self._pinned)
        )
        if verdict.startswith("ALIEN"):
            self.wrong.append(f"{name} is not an error of our tree")
        elif (self.strict or self._calm) and not fine:
            self.wrong.append(f"{name}, and nothing failed")
        if kind in {"save", "delete", "abandon", "pin", "unpin"}:
            getattr(self, f"_{kind}")(step, code, verdict)
        elif verdict == "ok" and kind == "list":
            self._list(
                {int(s): int(c) for s, _, c in (one.partition("=") for one in found.split("+") if one)}
            )
        elif verdict == "ok" and kind == "restore":
            at, _, was = found.partition("=")
            if int(was) not in self._may(int(at)):
                self.wrong.append(f"restored {found}, which cannot be there")
            if (self.strict or self._calm) and step < 0 and any(s > int(at) for s in self._sure()):
                self.wrong.append(f"restored {at}, and there is a newer one")

    # -- what acts do --------------------------------------------------------------------------------

    def _save(self, step: int, code: int, verdict: str) -> None:
        if verdict == "ok":
            self.may[step] = {code}
            for gone in self._surplus(step):
                self._may(gone).add(None)
        elif verdict == "unknown":
            # It is there now, and nothing was deleted on its strength; where names cannot be exchanged, an
            # older one of this step may be out of sight until the next writer comes.
            self._may(step).update({code} if self.exchanges else {code, None})

    def _delete(self, step: int, code: int, verdict: str) -> None:
        if verdict == "ok":
            if step in self._pinned:
                self.wrong.append(f"step {step} was deleted, and it is pinned")
            self.may[step] = {None}
        elif verdict in {"failed", "unknown"}:
            self._may(step).add(None)

    def _abandon(self, step: int, code: int = 0, verdict: str = "killed") -> None:
        for above in [s for s in self.may if s > step]:
            if verdict == "ok":
                self.may[above] = {None}
            else:
                self.may[above].add(None)

    def _pin(self, step: int, code: int, verdict: str) -> None:
        if verdict == "ok":
            self._pinned.add(step)

    def _unpin(self, step: int, code: int, verdict: str) -> None:
        self._pinned.discard(step)

    def _list(self, found: dict[int, int]) -> None:
        for condition in reversed(self.conditions):
            if found.get(condition.step) == condition.code:
                for gone in condition.gone:
                    self._may(gone).add(None)
        self.conditions.clear()
        for step in self.may.keys() | found.keys():
            is_there = found.get(step)
            if is_there not in self._may(step):
                self.wrong.append(f"listed at step {step}: {is_there}, and not one of {self._may(step)}")
            self.may[step] = {is_there}

    # -- what follows --------------------------------------------------------------------------------

    def _may(self, step: int) -> set[int | None]:
        return self.may.setdefault(step, {None})

    def _sure(self) -> list[int]:
        return sorted(step for step, codes in self.may.items() if None not in codes)

    def _surplus(self, saved: int) -> frozenset[int]:
        """What retention may delete once ``saved`` is durable."""
        if not self.keep:
            return frozenset()
        kept = sorted({*self._sure(), saved})[-self.keep :]
        return frozenset(self.may.keys() - set(kept))
