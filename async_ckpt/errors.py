"""Every error the package raises on purpose.

::

    CheckpointError
    ├── ListenerError              a callback failed
    ├── SaveError                  a save did not become durable, or nobody can tell
    ├── UnsupportedLeafError       the state holds something that cannot be saved
    ├── RestoreError               nothing could be restored
    │   ├── NoCheckpointError          there is none (of that step)
    │   ├── DamagedCheckpointError     there is one, and its bytes are not the saved ones
    │   ├── StructureMismatchError     it is intact, but does not fit the given state
    │   └── FormatVersionError         it was written by a newer format
    ├── DirectoryLockedError       another writer holds the directory
    ├── SessionStopped             a step was asked for after the stop
    └── ProtocolError              a call was made where it has no meaning

Wrong arguments are ``TypeError`` and ``ValueError``, as everywhere in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "DirectoryLockedError",
    "FormatVersionError",
    "ListenerError",
    "ListenerFailure",
    "NoCheckpointError",
    "ProtocolError",
    "RestoreError",
    "SaveError",
    "SessionStopped",
    "StructureMismatchError",
    "UnsupportedLeafError",
]


class CheckpointError(Exception):
    """Base of every error of this package."""


class ListenerFailure:
    """One callback that failed, as found in :attr:`ListenerError.errors`.

    Attributes:
        listener: The object the callback belongs to.
        phase: ``"begin"``, ``"before_save"``, ``"after_save"`` or ``"end"``.
        step: The step of the save, or None in ``begin``.
        exception: What the callback raised.
    """

    __slots__ = ("exception", "listener", "phase", "step")

    def __init__(self, listener: object, phase: str, step: int | None, exception: BaseException) -> None:
        self.listener = listener
        self.phase = phase
        self.step = step
        self.exception = exception

    def __repr__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        return f"<{type(self.listener).__name__}.{self.phase}{at}: {self.exception!r}>"


class ListenerError(CheckpointError):
    """One or more callbacks of one phase failed.

    The cause is the callback's own exception, or an ``ExceptionGroup`` of several.

    Attributes:
        errors: One :class:`ListenerFailure` per failed callback, in call order.
        phase: The phase all of them belong to.
        step: The step of the save, or None in ``begin``.
    """

    def __init__(self, errors: Sequence[ListenerFailure]) -> None:
        self.errors = tuple(errors)
        self.phase = self.errors[0].phase
        self.step = self.errors[0].step
        names = ", ".join(
            f"{type(e.listener).__name__}.{e.phase} raised {e.exception!r}" for e in self.errors
        )
        at = "" if self.step is None else f" at step {self.step}"
        super().__init__(f"{names}{at}")
        causes = [e.exception for e in self.errors]
        self.__cause__ = (
            causes[0]
            if len(causes) == 1
            else BaseExceptionGroup(f"{len(causes)} callbacks failed in {self.phase}", causes)
        )


class _LocatedError(CheckpointError):
    """An error that can say where it happened: ``step`` and ``path``, each None when unknown."""

    def __init__(
        self, message: str, *, step: int | None = None, path: str | None = None, **extra: Any
    ) -> None:
        super().__init__(message)
        self.step = step
        self.path = path
        for name, value in extra.items():
            setattr(self, name, value)


class SaveError(_LocatedError):
    """A save did not end as a durable checkpoint.

    Attributes:
        step: The step that was being saved.
        path: The file or directory the operating system complained about.
        outcome: ``"failed"``: there is no such checkpoint, older ones are untouched.
            ``"unknown"``: the error came after the rename, so the checkpoint may or may not
            survive a power cut; nothing is deleted on its strength.
            ``"cancelled"``: :meth:`PendingSave.cancel` came in time.
    """

    outcome: Literal["failed", "unknown", "cancelled"]

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        path: str | None = None,
        outcome: Literal["failed", "unknown", "cancelled"] = "failed",
    ) -> None:
        super().__init__(message, step=step, path=path)
        self.outcome = outcome


class UnsupportedLeafError(_LocatedError):
    """The state holds a value that cannot be saved, or cannot be restored where it stands.

    Raised before anything is written. ``path`` is the place in the tree, such as
    ``model/layers/0/hook``.
    """


class RestoreError(_LocatedError):
    """Nothing was restored. ``step`` and ``path`` name the checkpoint in question."""


class NoCheckpointError(RestoreError):
    """The directory holds no checkpoint, or not the one asked for."""


class DamagedCheckpointError(RestoreError):
    """The bytes on disk are not the ones that were saved (missing, short, flipped, hostile).

    Arrays given to ``restore(into=...)`` may have been overwritten in part; the message says
    so when that is the case.
    """


class StructureMismatchError(RestoreError):
    """The checkpoint is intact, but its tree does not fit the given state.

    Attributes:
        missing: Paths the state has and the checkpoint lacks.
        unexpected: Paths the checkpoint has and the state lacks.
        different: Paths that differ in shape, dtype or kind, with both sides in words.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        path: str | None = None,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        different: Sequence[str] = (),
    ) -> None:
        super().__init__(message, step=step, path=path)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.different = tuple(different)


class FormatVersionError(RestoreError):
    """The checkpoint was written in a newer format than this release reads."""


class DirectoryLockedError(CheckpointError):
    """Another writer, in this process or another, holds the directory.

    Attributes:
        path: The directory.
        owner: What the holder wrote about itself (process id, host), or None.
    """

    def __init__(self, message: str, *, path: str, owner: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.owner = owner


class SessionStopped(CheckpointError):  # noqa: N818 - the name says what is the case
    """``run`` or ``advance`` was called after the stop; nothing was done.

    It leaves the session's block as a clean exit would, final save included.

    Attributes:
        reason: Why the session stopped.
        step: Where it stopped.
    """

    def __init__(self, message: str, *, reason: str | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.step = step


class ProtocolError(CheckpointError):
    """A call that has no meaning at this point, such as ``save()`` from inside a callback.

    It is raised before anything is done, and changes nothing.
    """
