"""What the saver's tests share: both stores, a state with a bit of everything, gates opened by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt.storage.local import LocalStore
from async_ckpt.storage.memory import MemoryPlace, MemoryStore
from async_ckpt.system.threads import Worker


@pytest.fixture(params=["local", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Makes stores that share one place."""
    if request.param == "local":
        return lambda: LocalStore(tmp_path / "run")
    place = MemoryPlace()
    return lambda: MemoryStore(place)


class Faults:
    """Fails, or holds, chosen operations of a :class:`MemoryStore`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, str | None]] = []
        self._errors: dict[tuple[str, str | None], BaseException] = {}
        self._gates: dict[tuple[str, str | None], tuple[threading.Event, threading.Event]] = {}

    def fail(self, op: str, error: BaseException | None, name: str | None = None) -> None:
        if error is None:
            self._errors.pop((op, name), None)
        else:
            self._errors[op, name] = error

    def hold(self, op: str, name: str | None = None) -> tuple[threading.Event, threading.Event]:
        """Hold an operation: the first event says that it has come there, the second lets it go on."""
        gate = (threading.Event(), threading.Event())
        self._gates[op, name] = gate
        return gate

    def __call__(self, op: str, step: int | None, name: str | None) -> BaseException | None:
        self.seen.append((op, step, name))
        for key in ((op, name), (op, None)):
            if key in self._gates:
                came, go = self._gates[key]
                came.set()
                assert go.wait(30)
            if key in self._errors:
                return self._errors[key]
        return None


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def thread() -> Any:
    """A thread to wait in, so that the loop goes on."""
    worker = Worker("test")
    yield worker
    worker.close()


@pytest.fixture
def memory(faults: Faults) -> MemoryStore:
    return MemoryStore(faults=faults)


def rich_state(seed: int = 0) -> dict[str, Any]:
    import ml_dtypes

    rng = np.random.default_rng(seed)
    return {
        "model": {
            "w": rng.standard_normal((17, 9)),
            "half": rng.standard_normal(33).astype(np.float16),
            "brain": rng.standard_normal((4, 4)).astype(ml_dtypes.bfloat16),
            "empty": np.empty((0, 3), np.float32),
            "scalar": np.array(3.5),
            "big_endian": np.arange(7, dtype=">i4"),
            "strided": rng.standard_normal((6, 8))[::2, ::-1],
            "complex": rng.standard_normal(5) + 1j,
        },
        "optimizer": {"m": [rng.standard_normal(11), rng.standard_normal(3)], "step": seed, "lr": 1e-3},
        "data": {
            "position": 2**70,
            "name": "digits",
            "seen": (1, 2),
            "nan": float("nan"),
            "raw": b"\x00\xff",
        },
        "rng": np.random.default_rng(seed + 1),
    }


def assert_same(one: Any, other: Any) -> None:
    """Equal down to the bits, dtypes included; generators by what they draw next."""
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, np.random.Generator):
        assert one.bit_generator.state == other.bit_generator.state
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert type(one) is type(other)
        assert repr(one) == repr(other)
