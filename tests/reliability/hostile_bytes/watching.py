"""What reading may do: a hook hears of every file opened, module imported and line of code compiled."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, TypeVar

from tests.reliability.inline import run_inline

__all__ = ["Watch", "read_watched", "watched"]

T = TypeVar("T")

SECONDS = 5.0
"""An input takes milliseconds; this is for a machine that is busy with other things."""
GROWTH = 64 << 20
"""Bytes of memory beyond what the undamaged checkpoint takes."""

_HARMLESS = {
    "_thread.start_new_thread",
    "_thread.start_joinable_thread",
    "builtins.id",
    "ctypes.addressof",
    "ctypes.create_string_buffer",
    "fcntl.flock",
    "mmap.__new__",
    "object.__getattr__",
    "object.__setattr__",
    "sys._getframe",
    "sys.get_asyncgen_hooks",
    "sys.set_asyncgen_hook_finalizer",
    "sys.set_asyncgen_hook_firstiter",
    "time.sleep",
}
_watches: list[Watch] = []


class Watch:
    """Everything that was done and should not have been, and whether an input took too long or too much."""

    def __init__(self, directory: Path) -> None:
        self._place = str(directory)
        self._found: list[str] = []
        self._peak = 0
        self._began = 0.0
        self._listens = False
        self.slowest = 0.0

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if (
            not self._listens
            or event in _HARMLESS
            or (event in _ALLOWED and _ALLOWED[event](self._place, args))
        ):
            return
        what = f"{event}{args!r}"[:300]
        if what not in self._found:
            self._found.append(what)

    def begin(self) -> None:
        """Before each input."""
        self._began = time.perf_counter()
        self._listens = True

    def end(self, what: object) -> None:
        """After each input: it did nothing else, and took neither long nor much."""
        self._listens = False
        took = time.perf_counter() - self._began
        self.slowest = max(self.slowest, took)
        assert took < SECONDS, f"{what}: {took:.1f} s"
        assert not self._found, f"{what}: it did {self._found}"
        assert _peak() - self._peak < GROWTH, f"{what}: {_peak() - self._peak} bytes of memory more"

    def start(self) -> None:
        with contextlib.suppress(OSError):
            # Forget how much the process once took, so that this time shows.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._peak = _peak()
        self._found.clear()
        _watches.append(self)

    def stop(self) -> None:
        _watches.remove(self)


@contextlib.contextmanager
def watched(directory: Path) -> Generator[Watch]:
    """Watch what this process does while it reads checkpoints in ``directory``."""
    if not _installed:
        # A hook cannot be removed; it costs next to nothing while nobody watches.
        _installed.append(True)
        sys.addaudithook(_hook)
    watch = Watch(directory)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def read_watched(directory: Path, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Read twice: what is imported and resolved once, the first time; then under the eyes of a watch."""

    async def twice() -> T:
        await read()
        with watched(directory) as watch:
            watch.begin()
            found = await read()
            watch.end("reading")
        return found

    return run_inline(twice())


_installed: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for watch in _watches:
        watch.hear(event, args)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _inside(place: str, args: tuple[Any, ...]) -> bool:
    """Names are relative to a directory that is open; what is not must be the place itself."""
    name = args[0]
    return isinstance(name, int) or name == place or (name not in {".", ".."} and "/" not in str(name))


def _is_lease(place: str, args: tuple[Any, ...]) -> bool:
    return str(args[0]).startswith("lease-")


def _is_pins(place: str, args: tuple[Any, ...]) -> bool:
    return bool(args[0] == ".pins")


_ALLOWED = {
    "open": _inside,
    "os.listdir": _inside,
    "os.scandir": _inside,
    "os.mkdir": _is_pins,
    "os.remove": _is_lease,
}
