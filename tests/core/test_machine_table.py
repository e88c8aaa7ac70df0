"""Every cell of the transition tables: what is legal moves, what is not changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from async_ckpt.core import protocol as p
from async_ckpt.core.machine import PHASES, SAVES, Machine, Phase, SaveState
from async_ckpt.core.triggers import EverySteps
from async_ckpt.errors import ProtocolError

SESSION_INPUTS: list[Any] = [
    p.Opened(0, (p.HookSpec(EverySteps(1)),)),
    p.ReportOwed(0, 0),
    p.BoundaryOpened(1),
    p.SaveOffered(0, now=0.0),
    p.OfferWithdrawn(0),
    p.BoundaryClosed(0.0),
    p.StopRequested("why"),
    p.CloseRequested(),
    p.Closed(),
]
SAVE_INPUTS: list[Any] = [
    p.Prepared(0),
    p.PrepareFailed(0),
    p.Written(0),
    p.WriteFailed(0),
    p.Committed(0),
    p.CommitFailed(0),
    p.Reported(0),
    p.Settled(0),
]


def machine_in(phase: Phase) -> Machine:
    machine = Machine()
    if phase is Phase.NEW:
        return machine
    machine.receive(p.Opened(0, (p.HookSpec(EverySteps(1)),)))
    if phase is Phase.BOUNDARY:
        machine.receive(p.BoundaryOpened(1))
    if phase in (Phase.CLOSING, Phase.CLOSED):
        machine.receive(p.CloseRequested())
    if phase is Phase.CLOSED:
        machine.receive(p.Closed())
    return machine


def machine_with_save(state: SaveState) -> Machine:
    """Bring hook 0's save of step 1 into ``state``; WRITTEN needs an open boundary, the rest a closed one."""
    machine = machine_in(Phase.OPEN)
    machine.receive(p.BoundaryOpened(1))
    machine.receive(p.SaveOffered(0, now=0.0))
    if state is SaveState.PREPARING:
        return machine
    machine.receive(p.Prepared(0))
    if state is SaveState.WRITING:
        return machine
    machine.receive(p.Written(0))
    if state is SaveState.WRITTEN:
        return machine
    machine.receive(p.BoundaryClosed(0.0))
    if state is SaveState.COMMITTING:
        return machine
    machine.receive(p.Committed(0))
    if state is SaveState.REPORTING:
        return machine
    machine.receive(p.Reported(0))
    return machine


def snapshot(machine: Machine) -> Any:
    return copy.deepcopy({name: getattr(machine, name) for name in vars(machine)}).__repr__()


def legal_by_state(phase: Phase, event: Any) -> bool:
    """Some legal kinds still need a partner, such as a save that waits."""
    if isinstance(event, p.OfferWithdrawn):
        return False
    return not (isinstance(event, p.BoundaryOpened) and phase is Phase.NEW)


@pytest.mark.parametrize("event", SESSION_INPUTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("phase", list(Phase), ids=lambda ph: ph.value)
def test_every_phase_takes_what_its_row_says_and_refuses_the_rest_unchanged(phase: Phase, event: Any) -> None:
    machine = machine_in(phase)
    assert machine.phase is phase
    target = PHASES[phase].get(type(event))
    if target is not None and legal_by_state(phase, event):
        machine.receive(event)
        assert machine.phase is target
    else:
        before = snapshot(machine)
        with pytest.raises(ProtocolError):
            machine.receive(event)
        assert snapshot(machine) == before


@pytest.mark.parametrize("event", SAVE_INPUTS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "state", [s for s in SaveState if s not in (SaveState.HELD, SaveState.OVER)], ids=lambda s: s.value
)
def test_every_save_takes_what_its_row_says_and_refuses_the_rest_unchanged(
    state: SaveState, event: Any
) -> None:
    machine = machine_with_save(state)
    assert machine.state_of(0) is state
    target = SAVES[state].get(type(event))
    if target is None:
        before = snapshot(machine)
        with pytest.raises(ProtocolError):
            machine.receive(event)
        assert snapshot(machine) == before
    else:
        machine.receive(event)
        expected = None if target is SaveState.OVER else target
        assert machine.state_of(0) is expected


@pytest.mark.parametrize("event", SAVE_INPUTS, ids=lambda e: type(e).__name__)
def test_news_of_a_save_that_does_not_exist_is_refused_unchanged(event: Any) -> None:
    machine = machine_in(Phase.OPEN)
    before = snapshot(machine)
    with pytest.raises(ProtocolError):
        machine.receive(event)
    assert snapshot(machine) == before


def test_every_input_has_a_row_and_every_state_is_in_the_table() -> None:
    assert set(PHASES) == set(Phase)
    assert set(SAVES) == set(SaveState)
    named = {kind for row in PHASES.values() for kind in row} | {
        kind for row in SAVES.values() for kind in row
    }
    assert named == {type(event) for event in (*SESSION_INPUTS, *SAVE_INPUTS)}


def test_a_step_counter_that_goes_back_is_refused() -> None:
    machine = machine_in(Phase.OPEN)
    machine.receive(p.BoundaryOpened(3))
    machine.receive(p.BoundaryClosed(0.0))
    with pytest.raises(ProtocolError, match="went back from 3 to 2"):
        machine.receive(p.BoundaryOpened(2))


def test_a_boundary_does_not_close_over_a_save_that_is_being_prepared() -> None:
    machine = machine_with_save(SaveState.PREPARING)
    with pytest.raises(ProtocolError, match="being prepared"):
        machine.receive(p.BoundaryClosed(0.0))
    assert machine.phase is Phase.BOUNDARY


def test_a_hook_gets_its_place_once_per_boundary() -> None:
    machine = machine_with_save(SaveState.PREPARING)
    with pytest.raises(ProtocolError, match="twice"):
        machine.receive(p.SaveOffered(0, now=0.0))


def test_a_report_is_not_owed_by_a_hook_with_a_save_in_flight() -> None:
    machine = machine_with_save(SaveState.COMMITTING)
    with pytest.raises(ProtocolError, match="in flight"):
        machine.receive(p.ReportOwed(0, 0))
