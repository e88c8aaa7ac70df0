"""Any interleaving of steps, completions, failures, votes and cancellations keeps the rounds in order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from async_ckpt.core import protocol as p
from async_ckpt.core.machine import Machine, Phase, SaveState
from async_ckpt.core.triggers import EverySecs, EverySteps, Trigger, WhenAsked
from async_ckpt.core.votes import Vote, all_of, any_of, at_least

TRIGGERS: st.SearchStrategy[Trigger] = st.one_of(
    st.integers(1, 4).map(EverySteps),
    st.integers(1, 5).map(lambda secs: EverySecs(float(secs), last=0.0)),
    st.just(WhenAsked()),
)


@st.composite
def hook_specs(draw: st.DrawFn) -> p.HookSpec:
    trigger = draw(TRIGGERS)
    when_busy = draw(st.sampled_from(["wait", "skip", "coalesce"]))
    grid = isinstance(trigger, EverySteps) and when_busy == "wait"
    return p.HookSpec(
        trigger=trigger,
        when_busy=when_busy,  # type: ignore[arg-type]
        blocking=draw(st.booleans()),
        honor_stop=draw(st.sampled_from(["next_step", "next_save"])) if grid else "next_step",
        rule=draw(st.sampled_from([any_of, all_of, at_least(2)])),
        voters=draw(st.integers(0, 3)),
        initial=draw(st.booleans()),
    )


class Rounds(RuleBasedStateMachine):
    """Plays the shell: feeds legal inputs in any order and checks what is commanded."""

    machine: Machine

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.now = 0.0
        self.next_place = 0
        self.waiting: int | None = None
        self.round_of: dict[int, int] = {}
        self.rounds = 0
        self.reported_rounds: list[int] = []
        self.last_attempt: dict[int, tuple[int, bool]] = {}
        self.committing: list[int] = []
        self.stops = 0
        self.closing = False
        self.proceeded = 0
        self.kind = "step"
        self.ahead = (0.0, 0.0)

    @initialize(specs=st.lists(hook_specs(), min_size=1, max_size=3))
    def open(self, specs: list[p.HookSpec]) -> None:
        self.machine = Machine()
        self.specs = specs
        self.tell(p.Opened(0, tuple(specs)))

    def tell(self, event: p.Input) -> list[p.Command]:
        commands = self.machine.receive(event)
        for command in commands:
            self.obey(command)
        return commands

    def obey(self, command: p.Command) -> None:
        match command:
            case p.Prepare(hook, step):
                assert not self.closing, "a round began after the close"
                others = {self.round_of[h] for h in self.round_of if self.machine.state_of(h) and h != hook}
                assert others <= {self.rounds}, (
                    "a later round was prepared while an earlier one was in flight"
                )
                last, failed = self.last_attempt.get(hook, (-1, True))
                assert step > last or (failed and step == last), "a step repeated without a failure"
                self.last_attempt[hook] = (step, True)
                self.round_of[hook] = self.rounds
            case p.Proceed(hook):
                assert self.waiting == hook, "the boundary was let go behind a hook that had not asked"
                self.waiting = None
                self.proceeded += 1
            case p.Commit(hook):
                if not self.specs[hook].blocking:
                    earlier = [
                        h
                        for h in self.round_of
                        if h < hook
                        and self.round_of[h] == self.round_of[hook]
                        and self.machine.state_of(h)
                        and not self.specs[h].blocking
                    ]
                    assert not earlier, "committed before an earlier hook of the round was over"
            case p.Report(hook, step):
                assert self.last_attempt[hook][0] == step
                self.last_attempt[hook] = (step, False)
            case p.DecideStop():
                self.stops += 1
                assert self.stops == 1, "decided twice"
            case p.Skip(hook):
                assert self.specs[hook].when_busy == "skip"
            case _:
                pass

    # -- the trainer -------------------------------------------------------------------------

    @precondition(lambda self: self.machine.phase is Phase.OPEN and not self.closing)
    @rule(kind=st.sampled_from(["step", "step", "step", "demand"]), steps=st.integers(1, 3))
    def open_boundary(self, kind: Any, steps: int) -> None:
        if kind == "step":
            self.step += steps
            self.now += 1.0
        self.rounds += 1
        self.next_place = 0
        self.kind = kind
        #: what the shell leaves a boundary out for
        self.ahead = (self.machine.due_step, self.machine.due_time)
        self.tell(p.BoundaryOpened(self.step, kind))

    @precondition(
        lambda self: (
            self.machine.phase is Phase.BOUNDARY
            and self.waiting is None
            and self.next_place < len(self.specs)
        )
    )
    @rule(wanted=st.booleans(), asked=st.booleans())
    def offer(self, wanted: bool, asked: bool) -> None:
        hook = self.waiting = self.next_place
        self.next_place += 1
        idle_ahead = self.step < self.ahead[0] and self.now < self.ahead[1] and self.kind == "step"
        commands = self.tell(p.SaveOffered(hook, self.now, wanted=wanted, asked=asked))
        if idle_ahead and not asked:
            assert commands == [p.Proceed(hook, taken=False)], "a save that nobody saw coming"

    @precondition(lambda self: self.machine.phase is Phase.BOUNDARY and self.machine.held is not None)
    @rule()
    def cancel_while_waiting(self) -> None:
        assert self.waiting is not None
        assert self.machine.held == self.waiting
        self.tell(p.OfferWithdrawn(self.waiting))
        self.waiting = None
        self.next_place = len(self.specs)

    @precondition(
        lambda self: (
            self.machine.phase is Phase.BOUNDARY
            and self.waiting is None
            and self.next_place >= len(self.specs)
        )
    )
    @rule()
    def close_boundary(self) -> None:
        self.tell(p.BoundaryClosed(self.now))

    # -- the disk and the listeners ----------------------------------------------------------

    def in_state(self, state: SaveState) -> list[int]:
        return [h for h in range(len(self.specs)) if self.machine.state_of(h) is state]

    @precondition(lambda self: self.in_state(SaveState.PREPARING))
    @rule(data=st.data(), ok=st.booleans())
    def prepared(self, data: st.DataObject, ok: bool) -> None:
        hook = data.draw(st.sampled_from(self.in_state(SaveState.PREPARING)))
        self.tell(p.Prepared(hook) if ok else p.PrepareFailed(hook))

    @precondition(lambda self: self.in_state(SaveState.WRITING))
    @rule(data=st.data(), ok=st.booleans())
    def written(self, data: st.DataObject, ok: bool) -> None:
        hook = data.draw(st.sampled_from(self.in_state(SaveState.WRITING)))
        self.tell(p.Written(hook) if ok else p.WriteFailed(hook))

    @precondition(lambda self: self.in_state(SaveState.COMMITTING))
    @rule(data=st.data(), ok=st.booleans())
    def committed(self, data: st.DataObject, ok: bool) -> None:
        hook = data.draw(st.sampled_from(self.in_state(SaveState.COMMITTING)))
        self.tell(p.Committed(hook) if ok else p.CommitFailed(hook))

    @precondition(lambda self: self.in_state(SaveState.REPORTING))
    @rule(data=st.data(), names=st.lists(st.sampled_from("ABC"), max_size=3))
    def reported(self, data: st.DataObject, names: list[str]) -> None:
        hook = data.draw(st.sampled_from(self.in_state(SaveState.REPORTING)))
        before = {vote.listener for vote in self.machine.votes()}
        self.tell(p.Reported(hook, tuple(Vote(name, self.step) for name in names)))
        assert before | set(names) == {vote.listener for vote in self.machine.votes()}, "a vote was lost"

    @precondition(lambda self: self.in_state(SaveState.SETTLING))
    @rule(data=st.data())
    def settled(self, data: st.DataObject) -> None:
        self.tell(p.Settled(data.draw(st.sampled_from(self.in_state(SaveState.SETTLING)))))

    # -- the end -----------------------------------------------------------------------------

    @rule()
    def ask_to_stop(self) -> None:
        self.tell(p.StopRequested("asked"))

    @precondition(lambda self: self.machine.phase is Phase.OPEN)
    @rule()
    def close(self) -> None:
        self.closing = True
        self.tell(p.CloseRequested())

    @invariant()
    def nobody_waits_for_an_idle_machine(self) -> None:
        if hasattr(self, "machine") and self.machine.idle and self.machine.phase is Phase.BOUNDARY:
            assert self.waiting is None

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        # Whatever is left in flight can always be brought to its end.
        for _ in range(100):
            for state, event in (
                (SaveState.PREPARING, p.Prepared),
                (SaveState.WRITING, p.Written),
                (SaveState.COMMITTING, p.Committed),
                (SaveState.REPORTING, p.Reported),
                (SaveState.SETTLING, p.Settled),
            ):
                for hook in self.in_state(state):
                    self.tell(event(hook))
            if self.machine.phase is Phase.BOUNDARY and self.waiting is None:
                self.tell(p.BoundaryClosed(self.now))
            if self.machine.idle:
                return
        raise AssertionError("the machine never came to rest")


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
