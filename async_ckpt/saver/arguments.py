"""What callers hand in, judged before anything is done with it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from async_ckpt.core.retention import Policy, classic, combined
from async_ckpt.errors import UnsupportedLeafError
from async_ckpt.state.plain import encode_plain
from async_ckpt.storage.names import check_step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from async_ckpt.state.dtypes import Json

__all__ = [
    "encoded_listeners",
    "encoded_metadata",
    "encoded_metrics",
    "positive_or_none",
    "step_number",
    "what_to_keep",
]


def positive_or_none(name: str, value: object, *, least: int | None = None) -> None:
    """Refuse what is neither None nor a finite number above zero, or is below ``least`` where that is given.

    With ``least`` it has to be an integer.

    Raises:
        ValueError: It is out of range.
        TypeError: It is not a number, or not an integer where one is asked for.
    """
    if value is None:
        return
    kinds = (int,) if least is not None else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if least is not None else "a number"
        raise TypeError(f"{name} has to be {kind} or None, not {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} has to be at least {least}, not {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} has to be above zero and finite, not {value!r}")


def step_number(step: object) -> int:
    """Give a step as a plain ``int``; numpy's integers are taken.

    Raises:
        TypeError: It is not an integer, or it is a bool.
        ValueError: It is negative or has more than 19 digits.
    """
    if isinstance(step, bool):
        raise TypeError("a step is an integer, not a bool")
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a step is an integer, not {step!r}") from None
    check_step(number)
    return number


def what_to_keep(
    max_to_keep: int | None,
    keep: Policy | Iterable[Policy] | None,
    keep_checkpoint_every_n_hours: float | None,
) -> Policy:
    """Make one policy of the three parameters about retention.

    Raises:
        ValueError: ``keep`` and ``keep_checkpoint_every_n_hours`` are both given, or a number is out
            of range.
        TypeError: ``keep`` holds something that is not a policy.
    """
    if keep is None:
        return classic(max_to_keep, keep_checkpoint_every_n_hours)
    if keep_checkpoint_every_n_hours is not None:
        raise ValueError("give keep= or keep_checkpoint_every_n_hours=, not both: EveryNHours() is a policy")
    return combined(keep)


def encoded_metrics(metrics: Mapping[str, float] | None) -> tuple[dict[str, float], Json]:
    """Give metrics as plain floats, and as JSON that brings NaN back as well.

    Raises:
        TypeError: A name is not a text, or a value is not a number.
    """
    given: dict[str, float] = {}
    for name, value in _table("metrics", metrics).items():
        if isinstance(value, str | bytes):
            raise TypeError(f"metric {name!r} is not a number: {value!r}")
        try:
            given[name] = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"metric {name!r} is not a number: {value!r}") from error
    return given, encode_plain(given)


def encoded_metadata(metadata: Mapping[str, Any] | None) -> tuple[dict[str, Any], Json]:
    """Give metadata as it was, and as JSON.

    Raises:
        UnsupportedLeafError: It holds something that is not a plain value.
        TypeError: It is not a table with texts as keys.
    """
    given = _table("metadata", metadata)
    return given, _encoded("metadata", given)


def encoded_listeners(listeners: Mapping[str, Any] | None) -> dict[str, Json]:
    """Give the states of listeners as JSON.

    Raises:
        UnsupportedLeafError: One holds something that is not a plain value; ``path`` names it.
        TypeError: A key is not a text.
    """
    given = _table("listeners", listeners)
    return {key: _encoded(f"listeners/{key}", state) for key, state in given.items()}


def _encoded(place: str, value: Any) -> Json:
    try:
        return encode_plain(value)
    except UnsupportedLeafError as error:
        path = f"{place}/{error.path}" if error.path else place
        raise UnsupportedLeafError(f"{place}: {error}", path=path) from error


def _table(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a mapping, not {given!r}")
    for key in given:
        if not isinstance(key, str):
            raise TypeError(f"{what} must have texts as keys, not {key!r}")
    return dict(given)
