"""May the state be saved as it stands? Every standing, every happening, every way to leave."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal, get_args

import pytest

from async_ckpt.core.standing import (
    MOVES,
    SAVED_AT,
    Exit,
    Happening,
    Occasion,
    Standing,
    last_round,
    refusal,
)

STANDINGS: tuple[Standing, ...] = get_args(Standing)
HAPPENINGS: tuple[Happening, ...] = get_args(Happening)
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

# rows: where it stood; columns: entered, began, counted, checked, cancelled, joined, went on
PICTURE = """
    entering   whole      entering   entering   entering   entering   entering   entering
    whole      whole      midway     unchecked  whole      torn       whole      midway
    midway     midway     midway     unchecked  midway     torn       whole      midway
    unchecked  unchecked  unchecked  unchecked  whole      torn       unchecked  unchecked
    torn       torn       torn       unchecked  torn       torn       torn       torn
"""


def after(standing: Standing, *happenings: Happening) -> Standing:
    for happening in happenings:
        standing = MOVES[standing][happening]
    return standing


def test_the_table_is_the_picture_cell_by_cell() -> None:
    rows = [line.split() for line in PICTURE.strip().splitlines()]
    drawn = {row[0]: dict(zip(HAPPENINGS, row[1:], strict=True)) for row in rows}
    assert drawn == MOVES
    assert tuple(drawn) == STANDINGS


@pytest.mark.parametrize("standing", STANDINGS[1:])
def test_a_step_that_is_counted_and_checked_is_whole_whatever_was_before(standing: Standing) -> None:
    assert after(standing, "began", "counted", "checked") == "whole"
    # A step of the caller's own has no beginning that could be seen.
    assert after(standing, "counted", "checked") == "whole"


@pytest.mark.parametrize("happening", HAPPENINGS)
def test_nothing_but_the_entry_itself_ends_the_entry(happening: Happening) -> None:
    assert (after("entering", happening) == "entering") == (happening != "entered")


@pytest.mark.parametrize("standing", STANDINGS[1:])
def test_a_step_cut_through_is_torn_until_another_one_is_counted(standing: Standing) -> None:
    torn = after(standing, "began", "cancelled")
    assert torn == "torn"
    assert after(torn, "began", "joined", "went on", "checked", "entered") == "torn"
    assert after(torn, "began", "counted") == "unchecked"


def test_what_a_check_refused_stays_refused_when_the_next_step_fails() -> None:
    assert after("whole", "began", "counted", "began") == "unchecked"


def test_a_plain_function_that_was_cancelled_is_a_whole_step() -> None:
    assert after("whole", "began", "joined") == "whole"


def test_the_state_is_the_callers_between_two_advances() -> None:
    assert after("whole", "counted", "checked", "went on") == "midway"


# -- what follows ----------------------------------------------------------------------------


@pytest.mark.parametrize(("standing", "occasion"), list(product(STANDINGS, OCCASIONS)))
def test_who_may_save_what(standing: Standing, occasion: Occasion) -> None:
    vouched_for = standing == "midway" and occasion != "exit with an error"
    assert (occasion in SAVED_AT[standing]) == (standing == "whole" or vouched_for)


@pytest.mark.parametrize("standing", STANDINGS)
def test_a_refusal_says_why(standing: Standing) -> None:
    why = {"entering": "entered", "unchecked": "check", "torn": "cancelled"}.get(standing)
    said = refusal(standing)
    assert (said is None) == (why is None)
    assert why is None or why in str(said)


def exits() -> list[Exit]:
    flags = (False, True)
    kinds: tuple[Literal["clean", "never", "always"], ...] = ("clean", "never", "always")
    return [
        Exit(clean=clean, final_save=kind, asked=asked, able=able)
        for clean, kind, asked, able in product(flags, kinds, flags, flags)
    ]


@pytest.mark.parametrize("leaving", exits(), ids=str)
@pytest.mark.parametrize("standing", STANDINGS)
def test_the_last_round_for_every_way_to_leave(standing: Standing, leaving: Exit) -> None:
    done = last_round(standing, leaving)
    saves = done in ("final", "asked")
    vouched_for = standing == "whole" or (standing == "midway" and leaving.clean)
    wanted = {"never": False, "clean": leaving.clean, "always": True}[leaving.final_save]
    if saves:
        assert vouched_for
        assert leaving.able
    if done == "final":
        assert wanted
    if done == "asked":
        assert leaving.asked
        assert leaving.clean
        assert not wanted
    if vouched_for and leaving.able:
        assert saves == (wanted or (leaving.asked and leaving.clean))
    assert (done == "left out") == (standing == "torn" and leaving.clean and wanted)


@pytest.mark.parametrize(
    ("standing", "leaving", "done"),
    [
        ("whole", Exit(clean=True, final_save="clean", asked=False, able=True), "final"),
        ("midway", Exit(clean=True, final_save="clean", asked=False, able=True), "final"),
        ("midway", Exit(clean=False, final_save="always", asked=False, able=True), "none"),
        ("whole", Exit(clean=False, final_save="always", asked=False, able=True), "final"),
        ("whole", Exit(clean=False, final_save="clean", asked=True, able=True), "none"),
        ("whole", Exit(clean=True, final_save="never", asked=True, able=True), "asked"),
        ("whole", Exit(clean=True, final_save="clean", asked=True, able=False), "none"),
        ("unchecked", Exit(clean=True, final_save="always", asked=True, able=True), "none"),
        ("torn", Exit(clean=True, final_save="clean", asked=True, able=True), "left out"),
        ("torn", Exit(clean=True, final_save="never", asked=True, able=True), "none"),
        ("entering", Exit(clean=False, final_save="always", asked=False, able=True), "none"),
    ],
)
def test_the_last_round_by_example(standing: Any, leaving: Exit, done: str) -> None:
    assert last_round(standing, leaving) == done
