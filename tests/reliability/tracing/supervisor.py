"""Children under supervision: each call to the files of one directory is counted, and may be hit."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.tracing.faults import NONE, Fault, Verdict
from tests.reliability.tracing.notify import Listener, Notice, listen
from tests.reliability.tracing.scenarios import (
    CALM,
    HOT,
    MARK,
    SCRIPTS,
    Act,
    Scenario,
    file_system_of,
    mark,
    perform,
)

__all__ = ["Child", "Life"]

_DEADLINE = 30.0
_BY_FD = {
    "read", "write", "close", "fstat", "lseek", "mmap", "pread64", "pwrite64", "readv", "writev", "fcntl",
    "flock", "fsync", "fdatasync", "ftruncate", "fstatfs", "getdents64", "fadvise64", "sync_file_range",
    "fallocate", "preadv", "pwritev", "copy_file_range", "preadv2", "pwritev2",
}  # fmt: skip
_FD_AT = {"mmap": 4, "copy_file_range": 2}
_BY_PATH = {
    "openat": 1, "mkdirat": 1, "newfstatat": 1, "unlinkat": 1, "renameat": 1, "renameat2": 1, "linkat": 1,
    "readlinkat": 1, "statx": 1, "symlinkat": 2,
}  # fmt: skip
_AT_CWD = 0xFFFFFF9C


@dataclass
class Life:
    """What was seen of one child.

    Attributes:
        marks: What it said, in order.
        names: Of the calls that were counted, in order.
        changes: Numbers of those among them that may change what is in the directory.
        hit: The first call that was hit, with its path below the directory; None if there was none.
        hits: How many were hit.
        spared: Whether a call of that name came after the last that was hit.
        end: ``done``, ``killed``, ``hung`` or how else it ended.
    """

    marks: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    hit: str | None = None
    hits: int = 0
    spared: bool = False
    end: str = ""

    @property
    def calls(self) -> int:
        """How many calls were counted."""
        return len(self.names)


class Child:
    """A forked process that carries out scripts one after the other, until one of them is its end.

    To be made in a process without other threads.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            _live(theirs)
        theirs.close()
        _, fds, _, _ = socket.recv_fds(self._socket, 1, 1)
        self._listener = Listener(fds[0], self._pid)
        self._over = False

    def carry_out(self, scenario: Scenario, acts: tuple[Act, ...], place: Path, fault: Fault = NONE) -> Life:
        """Carry out acts in the directory ``d`` of ``place``, a real path, and hit calls below ``place``."""
        life = Life()
        order = {"scenario": scenario.name, "acts": acts, "place": str(place)}
        self._socket.send(json.dumps(order).encode())
        _Watch(life, self._listener, self._pid, str(place), fault).run(self._socket)
        if life.end != "done":
            self._over = True
            _, status = os.waitpid(self._pid, 0)
            life.end = life.end or _ending(status)
        return life

    def close(self) -> None:
        """End it, if it has not ended."""
        if not self._over:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._listener.close()
        self._socket.close()


def _live(orders: socket.socket) -> None:
    try:
        fd = listen()
        # None of the calls up to the script is one that stops.
        socket.send_fds(orders, [b"x"], [fd])
        while data := orders.recv(1 << 16):
            order = json.loads(data)
            scenario = SCRIPTS[order["scenario"]]
            with file_system_of(scenario):
                asyncio.run(
                    perform(scenario, tuple(Act(*what) for what in order["acts"]), Path(order["place"]) / "d")
                )
            _look_for_leaks(order["place"])
            orders.send(b"done")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(3)


def _look_for_leaks(place: str) -> None:
    """Mark threads and open files that a closed saver left behind."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)
            if thread.is_alive():
                mark("left", f"thread {thread.name}")
    gc.collect()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = str(Path(f"/proc/self/fd/{name}").readlink())
        except OSError:
            continue
        if target.startswith(place):
            mark("left", f"open {target.removeprefix(place)}")
        # The other is what stands where a close was made to fail.
        if target.startswith(place) or (target == os.devnull and int(name) > 2):
            os.close(int(name))


class _Watch:
    """Answers the calls of one script."""

    def __init__(self, life: Life, listener: Listener, pid: int, area: str, fault: Fault) -> None:
        self.life = life
        self.listener = listener
        self.pid = pid
        self.area = area
        self.fault = fault
        self.calm = False
        self.hit: str | None = None

    def run(self, child: socket.socket) -> None:
        """Answer until the script is over, or the child."""
        deadline = time.monotonic() + _DEADLINE
        poll = select.poll()
        poll.register(self.listener.fd, select.POLLIN)
        poll.register(child, select.POLLIN)
        while True:
            ready = dict(poll.poll(1000 * max(0.0, deadline - time.monotonic())))
            if not ready:
                self.life.end = "hung"
                os.kill(self.pid, signal.SIGKILL)
                return
            if ready.get(self.listener.fd, 0) & select.POLLIN:
                notice = self.listener.receive()
                if notice is not None and not self._answer(notice):
                    return
            elif child.fileno() in ready:
                self.life.end = "done" if child.recv(4) else ""
                return

    def _answer(self, notice: Notice) -> bool:
        """Decide; False if the child is dead by that."""
        if self.calm and notice.name != "access":
            self.listener.let(notice)
            return True
        path, life = self._path(notice), self.life
        if path.startswith(MARK):
            said = path.removeprefix(MARK)
            life.marks.append(said)
            self.calm = said == CALM or (self.calm and said != HOT)
        elif path == self.area or path.startswith(f"{self.area}/"):
            life.names.append(notice.name)
            if _changes(notice):
                life.changes.append(life.calls)
            verdict = self.fault.verdict(life.calls, notice.name, self.hit, life.hits)
            if verdict == "let":
                life.spared = life.spared or notice.name == self.hit
            elif verdict == "shorten" and not self.listener.shorten(notice):
                pass
            else:
                return self._strike(verdict, notice, path)
        self.listener.let(notice)
        return True

    def _strike(self, verdict: Verdict, notice: Notice, path: str) -> bool:
        self.life.hits += 1
        if self.hit is None:
            self.hit = notice.name
            self.life.hit = f"{notice.name} {path.removeprefix(self.area)}"
        if verdict == "kill":
            os.kill(self.pid, signal.SIGKILL)
            return False
        if verdict == "fail":
            self.listener.fail(notice, self.fault.code)
        return True

    def _path(self, notice: Notice) -> str:
        name, args = notice.name, notice.args
        if name in _BY_FD:
            return self._of_fd(notice.thread, args[_FD_AT.get(name, 0)])
        at = _BY_PATH.get(name, 0)
        path = self.listener.text(args[at])
        if at and not path.startswith("/"):
            directory = args[at - 1] & 0xFFFFFFFF
            below = self._of_fd(notice.thread, directory)
            return f"{below}/{path}" if path else below
        return path

    @staticmethod
    def _of_fd(thread: int, fd: int) -> str:
        fd &= 0xFFFFFFFF
        link = f"/proc/{thread}/cwd" if fd == _AT_CWD else f"/proc/{thread}/fd/{fd}"
        try:
            return os.readlink(link)  # noqa: PTH115 - asked for every call
        except OSError:
            return ""


_MAKES = os.O_CREAT | os.O_TRUNC
_CHANGES = {
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "truncate", "ftruncate", "fallocate", "rename",
    "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "link", "linkat", "symlink",
    "symlinkat", "creat", "copy_file_range",
}  # fmt: skip


def _changes(notice: Notice) -> bool:
    if notice.name in {"open", "openat"}:
        return bool(notice.args[1 if notice.name == "open" else 2] & _MAKES)
    return notice.name in _CHANGES


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "killed" if number == signal.SIGKILL else f"ended by signal {number}"
    return f"ended with status {os.WEXITSTATUS(status)}"
