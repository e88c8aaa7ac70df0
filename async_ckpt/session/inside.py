"""What may be done from inside the user's code, and what would wait for itself there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from async_ckpt.errors import ProtocolError
from async_ckpt.runtime.lane import running_code
from async_ckpt.session.mutation import inside_mutation

if TYPE_CHECKING:
    from async_ckpt.runtime.runner import Attempt, SaveRunner

__all__ = ["checked_metrics", "current_save", "refuse_in_mutation", "refuse_inside"]


def refuse_inside(session: object, what: str) -> None:
    """Refuse a call that would wait for the code of ``session`` it is made from.

    Raises:
        ProtocolError: It is made from inside a callback, a hook method or a step function.
    """
    inside = running_code(session)
    if inside is not None:
        message = f"{what}() from inside {inside.what} would wait for itself"
        raise ProtocolError(message)


def refuse_in_mutation(what: str) -> None:
    """Refuse a call that would wait for the ``mutating()`` block it is made from.

    Raises:
        ProtocolError: It is made from inside one.
    """
    if inside_mutation():
        message = f"{what}() inside mutating() would wait for itself"
        raise ProtocolError(message)


def current_save(session: object, what: str) -> tuple[SaveRunner, Attempt]:
    """The save whose ``after_save`` the caller is inside of.

    Raises:
        ProtocolError: There is none.
    """
    inside = running_code(session)
    if inside is None or inside.save is None:
        message = f"{what}() has a meaning only inside after_save, while it runs"
        raise ProtocolError(message)
    save: tuple[SaveRunner, Attempt] = inside.save
    return save


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as floats.

    Raises:
        TypeError, ValueError: A name is no string, or a value no number.
    """
    checked: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            message = f"a metric's name has to be a string, not {name!r}"
            raise TypeError(message)
        if isinstance(value, str | bytes | bytearray):
            message = f"metric {name!r} has to be a number, not {value!r}"
            raise TypeError(message)
        checked[name] = float(value)
    return checked
