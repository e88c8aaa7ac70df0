"""Fuzzes one decoder in a process of its own: ``fuzzing.py TARGET RUNS SEED CORPUS FINDINGS [ENGINE]``.

The corpus is a directory of files. What was done is told in ``FINDINGS/told.json``; a finding is beside it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 5
MEBIBYTES = 1024
LONGEST = 1 << 13


class Bench:
    """Gives inputs to a target, and counts what became of them."""

    def __init__(self, judge: Any, findings: Path) -> None:
        self._judge = judge
        self._findings = findings
        self.runs = 0
        self.accepted = 0
        self.slowest = 0.0
        self.listens = False

    def give(self, data: bytes) -> None:
        began = time.perf_counter()
        self.listens = True
        try:
            self.accepted += self._judge(data)
        except BaseException:
            self.listens = False
            (self._findings / "finding").write_bytes(data)
            raise
        finally:
            self.listens = False
        self.runs += 1
        self.slowest = max(self.slowest, time.perf_counter() - began)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """Decoding does nothing that the interpreter would tell an audit hook of."""
        if self.listens and event not in {"sys._getframe", "object.__getattr__", "time.sleep"}:
            raise AssertionError(f"decoding did {event} {args!r}"[:300])

    def report(self, engine: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        told = {"engine": engine, "runs": self.runs, "accepted": self.accepted}
        told |= {"slowest_ms": round(self.slowest * 1e3, 1), "peak_mib": peak}
        (self._findings / "told.json").write_text(json.dumps(told), encoding="utf-8")


def main(name: str, runs: str, seed: str, corpus: str, findings: str, engine: str = "") -> None:
    guided = engine != "mutations" and importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["async_ckpt.storage", "async_ckpt.state"]):
            from tests.reliability.hostile_bytes.targets import TARGETS
    else:
        from tests.reliability.hostile_bytes.targets import TARGETS
    target = TARGETS[name]
    bench = Bench(target.judge, Path(findings))
    seeds = [file.read_bytes() for file in sorted(Path(corpus).iterdir())]
    for data in (*seeds, *(b" " + seed for seed in seeds)):
        # Before the hook listens: types are resolved and modules imported at the first record of a spelling.
        target.judge(data)
    sys.addaudithook(bench.hear)
    if guided:
        _guided(bench, target.tokens, int(runs), seed, corpus, findings)
        return
    from tests.reliability.hostile_bytes.mutating import mutants

    resource.setrlimit(resource.RLIMIT_AS, (MEBIBYTES << 21, MEBIBYTES << 21))
    for data in mutants(seeds, target.tokens, int(seed), int(runs)):
        bench.give(data)
    bench.report("seeded mutations")


def _guided(
    bench: Bench, tokens: tuple[bytes, ...], runs: int, seed: str, corpus: str, findings: str
) -> None:
    import atheris

    dictionary = Path(findings) / "dictionary"
    words = ("".join(f"\\x{byte:02x}" for byte in token[:64]) for token in tokens)
    dictionary.write_text("".join(f'"{word}"\n' for word in words), encoding="ascii")

    def give(data: bytes) -> None:
        bench.give(data)
        if bench.runs == runs:
            # The fuzzer ends the process by itself, without Python's farewell.
            bench.report(f"atheris {importlib.metadata.version('atheris')}")

    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST}", f"-timeout={SECONDS}"]
    options += [f"-rss_limit_mb={MEBIBYTES}", f"-dict={dictionary}", f"-artifact_prefix={findings}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", "-verbosity=1", corpus], give)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
