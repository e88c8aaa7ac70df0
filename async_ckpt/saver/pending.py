"""A save on its way: what its owner may ask and tell, while a task of the saver does the work.

The work and the waiting are apart. Waiters wait for events, so a cancelled waiter takes nothing with
it; the outcome is kept as a value and handed to whoever asks, as often as they ask.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from async_ckpt.errors import ProtocolError, SaveError
from async_ckpt.saver.records import SaveProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from async_ckpt.saver.records import Checkpoint, SavePhase

__all__ = ["PendingSave"]


class PendingSave:
    """One save, from :meth:`Saver.start_save` to a durable checkpoint. Await it for the checkpoint.

    Cancelling whoever waits never cancels the save. All methods belong on the event loop.

    Attributes:
        step: The step it is the checkpoint of.
        reused_bytes: Bytes of files that were linked, for nothing in them had changed.
    """

    def __init__(self, step: int, *, held: bool, left: Callable[[], None]) -> None:
        self.step = step
        self._left = left
        self._phase: SavePhase = "queued"
        self._stop = False
        self._seen = False
        self._copied = False
        self._error: BaseException | None = None
        self._checkpoint: Checkpoint | None = None
        self._view: Callable[[], Any] | None = None
        self._bytes_total = 0
        self._written_bytes: list[int] = []
        self._staged = asyncio.Event()
        self._written = asyncio.Event()
        self._allowed = asyncio.Event()
        self._released = asyncio.Event()
        self._over = asyncio.Event()
        self._on_release: list[Callable[[], None]] = []
        self.reused_bytes = 0
        if not held:
            self._allowed.set()

    def __repr__(self) -> str:
        return f"<PendingSave step={self.step} {self._phase}>"

    @property
    def progress(self) -> SaveProgress:
        """How far it is; a snapshot."""
        return SaveProgress(self._phase, sum(self._written_bytes), self._bytes_total)

    def done(self) -> bool:
        """Whether it has come to an end, one way or another."""
        return self._over.is_set()

    async def staged(self) -> None:
        """Wait until the state is copied; from then on it may change.

        Raises:
            SaveError: The save failed or was cancelled before; the state may change then, too.
        """
        await self._staged.wait()
        if not self._copied:
            raise self._told()

    async def written(self) -> None:
        """Wait until every byte, the manifest included, is on disk and only the rename is missing.

        Raises:
            SaveError: The save failed or was cancelled before.
        """
        await self._written.wait()
        if self._phase in ("failed", "cancelled"):
            raise self._told()

    def __await__(self) -> Generator[Any, None, Checkpoint]:
        """Wait for the end.

        Returns:
            The checkpoint, durable.

        Raises:
            SaveError: There is none (``outcome`` says more), with what happened as its cause.
            DirectoryLockedError: Another writer holds the directory.
        """
        return self._result().__await__()

    async def _result(self) -> Checkpoint:
        await self._over.wait()
        if self._checkpoint is None:
            raise self._told()
        return self._checkpoint

    def cancel(self) -> bool:
        """Ask for the save to be given up.

        Returns:
            True if it came in time: there will be no such checkpoint, and awaiting the save raises
            :class:`SaveError` with ``outcome="cancelled"``. False once the rename has begun, or if the
            save has ended otherwise.
        """
        if self._phase in ("committing", "done", "failed"):
            return False
        if not self._stop:
            self._stop = True
            if self._phase == "queued":
                self._fail(self._cancelled())
            # A held save waits for this or for its permission, whichever comes first.
            self._allowed.set()
        return True

    def allow_commit(self) -> None:
        """Let a held save go on to the rename once every byte is written. May be called at any time."""
        self._allowed.set()

    def view(self) -> Any:
        """The state as it was staged: fresh containers, read-only arrays over the staged memory.

        It is what the checkpoint holds. Reads no disk. Arrays that are kept stay as they are; the
        memory under them is not used for another save while they exist.

        Raises:
            ProtocolError: Nothing is staged yet, or the save was released.
        """
        if self._view is None:
            why = "is not staged"
            if self._released.is_set():
                why = "was released"
            elif self._copied:
                why = "is not kept in memory as a whole"
            message = f"the save of step {self.step} {why}: there is no staged memory to look at"
            raise ProtocolError(message)
        return self._view()

    @property
    def viewable(self) -> bool:
        """Whether :meth:`view` has something to show: all of the state is in memory now."""
        return self._view is not None

    def release(self) -> None:
        """Give the staged memory of a held save back, so that the next one can be staged."""
        self._view = None
        self._released.set()
        called, self._on_release = self._on_release, []
        for call in called:
            call()

    # -- told by the task that does the work --------------------------------------------------------

    def _move(self, phase: SavePhase) -> None:
        self._phase = phase
        if phase == "written":
            self._written.set()

    def _plan(self, sizes: list[int]) -> None:
        self._bytes_total = sum(sizes)
        self._written_bytes = [0] * len(sizes)

    def _progress(self, file: int) -> Callable[[int], None]:
        """What the writing thread of one file calls; a list item is assigned in one step."""

        def report(done: int) -> None:
            self._written_bytes[file] = done

        return report

    def _reuse(self, file: int, nbytes: int) -> None:
        self.reused_bytes += nbytes
        self._written_bytes[file] = nbytes

    def _stopped(self) -> bool:
        return self._stop

    def _when_released(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once nobody may look at the memory any more; at once if that is so."""
        if self._released.is_set():
            call()
        else:
            self._on_release.append(call)

    def _lose_view(self) -> None:
        """Somebody else gets the memory; the files hold the same."""
        self._view = None

    def _offer(self, view: Callable[[], Any] | None) -> None:
        self._copied = True
        if not self._released.is_set():
            self._view = view
        self._staged.set()

    def _succeed(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._finish("done")

    def _fail(self, error: BaseException) -> None:
        if self._over.is_set():
            return
        if self._checkpoint is not None:
            # It is durable, whatever failed behind the rename.
            self._finish("done")
            return
        self._error = error
        outcome = getattr(error, "outcome", None)
        # Nobody has to be told of what they asked for.
        self._seen = outcome == "cancelled" and self._stop
        try:
            self.release()
        finally:
            self._finish("cancelled" if outcome == "cancelled" else "failed")

    def _finish(self, phase: SavePhase) -> None:
        self._phase = phase
        try:
            self._left()
        finally:
            # Whoever waits is told, whatever came of the others.
            try:
                self._staged.set()
            finally:
                try:
                    self._written.set()
                finally:
                    self._over.set()

    def _cancelled(self) -> SaveError:
        message = f"the save of step {self.step} was cancelled"
        return SaveError(message, step=self.step, outcome="cancelled")

    def _told(self) -> BaseException:
        """What went wrong, for somebody who is told of it now."""
        self._seen = True
        return self._error if self._error is not None else self._cancelled()
