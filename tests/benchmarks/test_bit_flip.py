"""The comparison of flipped bits: what is counted is what is shown, and our own part of it runs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bit_flip, flipping
from benchmarks.restorers import RESTORERS

KEPT = bit_flip.decode(bit_flip.KEPT.read_bytes())


def test_the_kept_results_are_complete() -> None:
    assert [library.name for library in KEPT.libraries] == list(RESTORERS)
    for library in KEPT.libraries:
        assert library.error is None
        for draw, count in KEPT.flips.items():
            assert sum(library.outcomes[draw].values()) == count


def test_the_table_shows_every_library_and_what_it_does_not_say() -> None:
    shown = bit_flip.table(KEPT)
    for library in KEPT.libraries:
        row = next(line for line in shown.splitlines() if line.startswith(f"| {library.name} "))
        assert f"| {library.outcomes['byte']['silent']} ({library.outcomes['file']['silent']}) |" in row
    assert "What it does not say" in shown
    assert KEPT.command in shown


def test_a_library_that_cannot_be_run_is_shown_with_the_reason() -> None:
    library = bit_flip.Library(name="Orbax", version="not installed", error="could not be run: no module")
    results = bit_flip.decode(bit_flip.encode(KEPT))
    results.libraries = [library]
    assert "could not be run: no module" in bit_flip.table(results)


def test_our_own_flips_are_refused_or_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flipping.flip_all("async_ckpt", tmp_path, 1, [6, 6], 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 13
    assert not [line for line in lines if '"silent"' in line]
    assert [line for line in lines if '"refused"' in line]
