from __future__ import annotations
from typing import Any
try:
    from async_ckpt.system.throttle import Throttle
except ImportError:
    class Throttle:
        def __init__(self, rate: Any) -> None: ...
        def piece(self, d: int) -> int: return d
        def take(self, *a: Any) -> bool: return True
try:
    from async_ckpt.state.arrays import is_immutable
except ImportError:
    def is_immutable(v: Any) -> bool: return False
try:
    from async_ckpt.state.jax_arrays import hold
except ImportError:
    def hold(v: Any) -> Any: return v
from async_ckpt.state.validating import changed
