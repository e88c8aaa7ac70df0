"""What a run of the benchmarks consists of, as it is kept in the file of raw results."""

from __future__ import annotations

import msgspec

__all__ = ["Job", "Machine", "Results", "Run", "Save", "decode", "encode"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one child process is asked to measure.

    Attributes:
        experiment: Name of a module in ``benchmarks.experiments``.
        system: Name of the system it is measured on.
        states: Names of states, see :func:`benchmarks.states.spec`; measured one after the other.
        round: Which of the rotated rounds it belongs to.
        repeats: How often the thing itself is repeated in the child, where time allows.
        budget_secs: No further repeat is begun once those of a state took so long together.
        limit_secs: The child is killed and counts as failed when it takes longer.
        timeline: Whether the loop lag of the last save is kept tick by tick.
        numbers: Anything else the experiment has to know.
    """

    experiment: str
    system: str
    states: tuple[str, ...] = ()
    round: int = 0
    repeats: int = 3
    budget_secs: float = 60.0
    limit_secs: float = 240.0
    timeline: bool = False
    numbers: dict[str, float] = {}

    @property
    def name(self) -> str:
        """For people, and for ``--only``."""
        return f"{self.experiment} {self.system} {' '.join(self.states)}".strip()


class Save(msgspec.Struct, kw_only=True):
    """One save.

    Attributes:
        state: Of which state.
        bytes: Of tensors in it.
        stall: Seconds the caller was held; None where the system has no such thing.
        durable: Seconds from the call until what the system itself calls done; None likewise.
        unsynced: Seconds an fsync of everything it wrote took after that.
        gap: Seconds by which the loop was late at worst, for a ticker of one millisecond.
        gap_p999: The same, 99.9th percentile.
        parts: Seconds of parts, by name.
        timeline: (seconds since the call, worst lateness in seconds), one for every ten milliseconds.
    """

    state: str
    bytes: int
    stall: float | None
    durable: float | None
    unsynced: float | None
    gap: float
    gap_p999: float
    parts: dict[str, float] = {}
    timeline: list[tuple[float, float]] = []


class Run(msgspec.Struct, kw_only=True):
    """What came of one job.

    Attributes:
        saves: Filled by experiments that save.
        values: Figures by name, for those that measure something else.
        notes: Sentences the page repeats.
        error: Why there is no result, or not all of it.
        memory_base: Bytes of the process tree before the system was opened, with the state in memory.
        memory_peak: Bytes at the worst moment after that.
        seconds: Wall clock of the child, start to end.
        foreign: Share of the machine's processor time that went to others meanwhile.
    """

    job: Job
    saves: list[Save] = []
    values: dict[str, list[float]] = {}
    notes: list[str] = []
    error: str | None = None
    memory_base: int | None = None
    memory_peak: int | None = None
    marks: dict[str, float] = {}
    seconds: float = 0.0
    foreign: float | None = None


class Machine(msgspec.Struct, kw_only=True):
    """Where it was measured."""

    processor: str
    cores: int
    memory: int
    kernel: str
    disk: str
    python: str
    versions: dict[str, str]


class Results(msgspec.Struct, kw_only=True):
    """Everything the page is made from."""

    command: str
    began: str
    seconds: float
    quick: bool
    revision: str
    machine: Machine
    runs: list[Run]


def encode(results: Results) -> bytes:
    """As JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1)


def decode(data: bytes) -> Results:
    """Back from :func:`encode`.

    Raises:
        msgspec.ValidationError: It is something else.
    """
    return msgspec.json.decode(data, type=Results)
