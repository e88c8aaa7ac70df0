"""Every safeguard that is taken out is missed by a tier, and for what the tier looks for."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import async_ckpt
from tests.reliability.mutants.catalogue import MUTANTS
from tests.reliability.mutants.mutant import Killer, Mutant, StaleMutantError
from tests.reliability.mutants.trying import Tree
from tests.reliability.tier import counting, pick

TIER = "mutants"
PACKAGE = Path(async_ckpt.__file__).parent

TRIED = pick(MUTANTS[:1], MUTANTS, MUTANTS)
KILLERS = [*dict.fromkeys(killer for mutant in TRIED for killer in mutant.killers)]


def named(mutants: list[Mutant]) -> list[str]:
    return [mutant.name for mutant in mutants]


@pytest.mark.parametrize("mutant", MUTANTS, ids=named(MUTANTS))
def test_a_mutant_is_one_change_of_the_source_as_it_is(mutant: Mutant) -> None:
    before = mutant.read(PACKAGE)
    after = mutant.applied(before)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


def test_a_mutant_of_a_source_that_has_changed_says_so() -> None:
    mutant = Mutant("m", "nothing", "a.py", "old", "new", ())
    assert mutant.applied("an old line") == "an new line"
    for source in ("a line", "old, old"):
        with pytest.raises(StaleMutantError, match=r"'m' is stale.* times"):
            mutant.applied(source)


def test_no_two_mutants_are_the_same() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killer", KILLERS, ids=str)
def test_with_every_safeguard_in_place_its_killers_find_nothing(tree: Tree, killer: Killer) -> None:
    found = tree.run(killer)
    assert not found.failed, found.output
    assert "passed" in found.output, f"{killer}: no test was run\n{found.output}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", TRIED, ids=named(TRIED))
def test_a_safeguard_that_is_missing_is_missed(
    tree: Tree, mutant: Mutant, record_property: Callable[[str, object], None]
) -> None:
    with counting(record_property, TIER, mutant.name) as tally, tree.without(mutant):
        tally.cases = 1
        tally.facts |= {"safeguard": mutant.safeguard, "file": mutant.file}
        seconds, said, absent = 0.0, [], []
        for killer in mutant.killers:
            found = tree.run(killer)
            seconds += found.seconds
            if found.finding is not None:
                tally.facts |= {
                    "killer": str(killer),
                    "seconds": round(seconds, 1),
                    "cases": found.cases,
                    "finding": found.finding.partition("\n")[0][:160],
                }
                return
            said.append(f"-- {killer}, in {found.seconds:.1f} s:\n{found.output}")
            absent += [found.not_tried] if found.not_tried else []
        if len(absent) == len(mutant.killers):
            tally.skip("; ".join(absent))
        pytest.fail(f"{mutant.name} SURVIVED: {mutant.safeguard}\n" + "\n".join(said), pytrace=False)
