"""One saver hook's listeners, called phase by phase on the lane, and what becomes of their errors.

In the phases that prepare (``begin``, ``before_save``) the first error ends the phase; in those that
report (``after_save``, ``end``) everyone is reached and the error is kept for the boundary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from async_ckpt import events
from async_ckpt.core.votes import Vote
from async_ckpt.errors import ListenerError, ListenerFailure
from async_ckpt.listeners import Registration, Stop
from async_ckpt.runtime.host import Host
from async_ckpt.runtime.lane import Inside
from async_ckpt.saver import Restored
from async_ckpt.state.plain import decode_plain, encode_plain
from async_ckpt.system.threads import Outcome, insist

__all__ = ["Callbacks", "PhaseFailedError", "load_hooks"]

logger = logging.getLogger("async_ckpt")

_HOOK = "hook:"
"""What sets the session's own hooks apart from listeners among the keys of states."""


class PhaseFailedError(Exception):
    """A phase that prepares came to its end early; ``error`` is what has to leave the session."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Callbacks:
    """The listeners of one saver hook, as far as calling them goes."""

    def __init__(
        self,
        registrations: Sequence[Registration],
        host: Host,
        *,
        directory: str,
        on_error: Literal["raise", "log"],
        timeout_secs: float | None,
    ) -> None:
        self._registrations = registrations
        self._directory = directory
        self._host = host
        self._raise = on_error == "raise"
        self._timeout = timeout_secs
        self._begun: list[Registration] = []

    def __bool__(self) -> bool:
        """Whether there are any, called or not."""
        return bool(self._registrations)

    # -- phases ------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Call ``begin`` in order; the first error ends it.

        Raises:
            ListenerError: One of them failed (``on_listener_error="raise"``).
            KeyboardInterrupt, SystemExit: As one of them raised it.
        """
        take_back = self._begun.pop
        for entry in self._registrations:
            self._begun.append(entry)  # before, for it is owed an end, and memory may lack behind the call
            try:
                outcome = await self._call(entry, "begin", None)
            except BaseException:
                insist(take_back)
                raise
            if outcome is None or outcome.error is None:
                continue
            insist(take_back)
            if self._ends_phase(entry.listener, "begin", None, outcome.error):
                raise _leaving(entry.listener, "begin", None, outcome.error)

    async def before_save(self, step: int, cancelled: Callable[[], bool]) -> dict[str, Any] | None:
        """Call ``before_save`` in order, then take every ``state_dict()``.

        Returns:
            The states by key, or None if ``cancelled()`` came true between two calls.

        Raises:
            PhaseFailedError: One of them failed; nothing is to be saved.
        """
        for entry in self._begun:
            if cancelled():
                return None
            outcome = await self._call(entry, "before_save", step, self._host.facade, step)
            if outcome is not None and outcome.error is not None:
                self._end_phase_if_told(entry.listener, "before_save", step, outcome.error)
        if cancelled():
            return None
        states, failures = await self._states("before_save", step)
        for failure in failures:
            self._end_phase_if_told(failure.listener, "before_save", step, failure.exception)
        return None if cancelled() else states

    async def after_save(self, step: int, save: object) -> list[Vote]:
        """Call every ``after_save`` and gather the votes, until the grace period of the exit is over.

        ``save`` is what ``session.saved_state()`` and ``session.report()`` refer to meanwhile.
        """
        votes: list[Vote] = []
        failures: list[ListenerFailure] = []
        for entry in self._begun:
            if self._host.expired:
                break
            outcome = await self._call(entry, "after_save", step, self._host.facade, step, save=save)
            if outcome is None:
                continue
            if outcome.error is not None:
                failures.append(ListenerFailure(entry.listener, "after_save", step, outcome.error))
            elif outcome.value is not None:
                vote = Vote(entry.key, step, outcome.value.reason or None)
                votes.append(vote)
                self._host.emit(events.StopVoted, listener=entry.key, step=step, reason=vote.reason)
        self._note(failures)
        return votes

    async def reported_states(self, step: int) -> dict[str, Any]:
        """Take every ``state_dict()`` once more, for the report; one that fails is left out."""
        states, failures = await self._states("after_save", step)
        self._note(failures)
        return states

    @property
    def owe_end(self) -> bool:
        """Whether a listener has begun and has had no ``end``."""
        return bool(self._begun)

    async def end(self) -> None:
        """Call ``end`` of every listener that began, once, whatever the others did.

        Raises:
            MemoryError: Those that it did not come to are owed theirs still.
        """
        step = self._host.global_step
        failures: list[ListenerFailure] = []
        # A list that gets shorter may ask for memory, and who is still on it is called again.
        called = partial(self._begun.pop, 0)
        while self._begun:
            entry = self._begun[0]
            outcome = await self._call(entry, "end", step, self._host.facade, step)
            insist(called)
            if outcome is not None and outcome.error is not None:
                failures.append(ListenerFailure(entry.listener, "end", step, outcome.error))
        self._note(failures)

    # -- states ------------------------------------------------------------------------------

    def _stateful(self, *, with_hooks: bool = True) -> list[tuple[str, Any]]:
        own = [(entry.key, entry.listener) for entry in self._begun if entry.stateful]
        return own + [(f"{_HOOK}{key}", hook) for key, hook in self._host.stateful() if with_hooks]

    async def _states(self, phase: str, step: int) -> tuple[dict[str, Any], list[ListenerFailure]]:
        states: dict[str, Any] = {}
        failures: list[ListenerFailure] = []
        for key, owner in self._stateful():
            inside = Inside(f"{key}.state_dict", owner, self._host.facade)
            outcome = await self._host.lane.call(
                owner.state_dict, inside=inside, timeout_secs=self._timeout, convert=_captured
            )
            if outcome.error is None:
                states[key] = outcome.value
            else:
                failures.append(ListenerFailure(owner, phase, step, outcome.error))
        return states, failures

    async def load_states(self, restored: Restored, *, with_hooks: bool) -> None:
        """Give the stateful listeners back what they had; missing and extra entries warn.

        The session's own hooks are in every checkpoint and are restored from one of them only.

        Raises:
            ListenerError: A ``load_state_dict`` failed (``on_listener_error="raise"``).
        """
        path, states = restored.checkpoint.path, dict(restored.listeners)
        for key, owner in self._stateful(with_hooks=with_hooks):
            if key not in states:
                self._host.warn(f"checkpoint {path} holds no state for listener {key!r}")
                continue
            error = await _load(self._host, key, owner, states.pop(key))
            if error is not None and self._ends_phase(owner, "load_state_dict", restored.step, error):
                raise _leaving(owner, "load_state_dict", restored.step, error)
        # Of a listener whose `begin` failed the error is known, and it is not to be called any more.
        known = {entry.key for entry in self._registrations}
        for key in states:
            if key not in known and (with_hooks or not key.startswith(_HOOK)):
                self._host.warn(f"checkpoint {path} holds a state for {key!r}, no listener here")

    # -- one call, and its error -------------------------------------------------------------

    async def _call(
        self, entry: Registration, phase: str, step: int | None, *args: Any, save: object = None
    ) -> Outcome[Any] | None:
        """Call a method if there is one; what is raised says that it was not called."""
        method = entry.methods.get(phase)
        if method is None:
            return None

        def slow() -> None:
            self._host.emit(
                events.ListenerSlow, listener=entry.key, phase=phase, step=step, seconds=self._timeout
            )

        host = self._host
        began = host.clock.monotonic()
        outcome = await host.lane.call(
            method,
            *args,
            inside=Inside(f"{entry.key}.{phase}", entry.listener, host.facade, save=save),
            timeout_secs=self._timeout,
            on_slow=slow,
            convert=_as_stop if phase == "after_save" else None,
        )
        try:
            self._tell_called(entry, phase, step, began, outcome)
        except MemoryError as error:
            host.fail(error)  # what is raised here would say that it was not called
        return outcome

    def _tell_called(
        self, entry: Registration, phase: str, step: int | None, began: float, outcome: Outcome[Any]
    ) -> None:
        host = self._host
        if host.wants(events.ListenerCalled):
            host.emit(
                events.ListenerCalled,
                directory=self._directory,
                listener=entry.key,
                phase=phase,
                step=step,
                seconds=host.clock.monotonic() - began,
                error=None if outcome.error is None else repr(outcome.error),
            )

    def _ends_phase(self, owner: object, phase: str, step: int | None, error: BaseException) -> bool:
        if self._raise or _leaves_as_itself(error):
            return True
        _log(ListenerFailure(owner, phase, step, error))
        return False

    def _end_phase_if_told(self, owner: object, phase: str, step: int, error: BaseException) -> None:
        if self._ends_phase(owner, phase, step, error):
            raise PhaseFailedError(_leaving(owner, phase, step, error))

    def _note(self, failures: Sequence[ListenerFailure]) -> None:
        """Everyone was reached; what failed comes later, or into the log."""
        rest = []
        for failure in failures:
            if _leaves_as_itself(failure.exception):
                self._host.fail(failure.exception)
            else:
                rest.append(failure)
        if rest and self._raise:
            self._host.fail(ListenerError(rest))
        else:
            for failure in rest:
                _log(failure)


async def load_hooks(host: Host, restored: Restored) -> None:
    """Give the session's own hooks their states back where no saver hook of this session has a runner.

    Raises:
        ListenerError: A ``load_state_dict`` failed.
    """
    for key, owner in host.stateful():
        if f"{_HOOK}{key}" not in restored.listeners:
            host.warn(f"checkpoint {restored.checkpoint.path} holds no state for hook {key!r}")
            continue
        error = await _load(host, key, owner, restored.listeners[f"{_HOOK}{key}"])
        if error is not None:
            raise _leaving(owner, "load_state_dict", restored.step, error)


async def _load(host: Host, key: str, owner: Any, state: Any) -> BaseException | None:
    inside = Inside(f"{key}.load_state_dict", owner, host.facade)
    return (await host.lane.call(owner.load_state_dict, state, inside=inside)).error


def _leaves_as_itself(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | SystemExit)


def _leaving(owner: object, phase: str, step: int | None, error: BaseException) -> BaseException:
    return error if _leaves_as_itself(error) else ListenerError([ListenerFailure(owner, phase, step, error)])


def _log(failure: ListenerFailure) -> None:
    logger.error("%r", failure, exc_info=failure.exception)


def _captured(state: Any) -> Any:
    """A copy of a listener's state, taken while nobody else can run; refuses what cannot be saved."""
    return decode_plain(encode_plain(state))


def _as_stop(result: Any) -> Stop | None:
    """Take the truth of a return value where its own errors are caught."""
    if not result:
        return None
    return result if isinstance(result, Stop) else Stop("")
