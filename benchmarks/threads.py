"""A thread to run blocking calls in. Ours has a better one, but no peer is measured with ours imported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["Thread"]

T = TypeVar("T")


class Thread:
    """One thread, started at the first call."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)

    async def call(self, fn: Callable[..., T], /, *args: Any) -> T:
        """Run ``fn`` in the thread and wait for what it returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    def close(self) -> None:
        """Let the thread end; waits for nothing."""
        self._pool.shutdown(wait=False)
