"""System calls that wait for another process to say what becomes of them: Linux's seccomp user notification.

A child asks for it with :func:`listen` before it starts a thread; from then on each of the chosen calls, of
any of its threads, stops until whoever holds the listener answers. One counter for all threads, and a child
that lives on: ``strace`` counts each thread by itself, and needs a fresh interpreter for each fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from typing import NamedTuple

__all__ = ["CALLS", "SHORTENED", "Listener", "Notice", "listen", "reason_not_to"]

CALLS = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "stat": 4,
    "fstat": 5,
    "lstat": 6,
    "lseek": 8,
    "mmap": 9,
    "pread64": 17,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "access": 21,
    "fcntl": 72,
    "flock": 73,
    "fsync": 74,
    "fdatasync": 75,
    "truncate": 76,
    "ftruncate": 77,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "creat": 85,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "readlink": 89,
    "statfs": 137,
    "fstatfs": 138,
    "getdents64": 217,
    "fadvise64": 221,
    "openat": 257,
    "mkdirat": 258,
    "newfstatat": 262,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "readlinkat": 267,
    "sync_file_range": 277,
    "fallocate": 285,
    "preadv": 295,
    "pwritev": 296,
    "renameat2": 316,
    "copy_file_range": 326,
    "preadv2": 327,
    "pwritev2": 328,
    "statx": 332,
}
"""Every system call that touches files, with its number on x86-64."""

SHORTENED = {"read", "write", "pread64", "pwrite64", "preadv", "preadv2"}
"""Those that can be carried out by half."""

_NAMES = {number: name for name, number in CALLS.items()}
_ARCH = 0xC000003E
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND, _ADD_FD, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40182103, 0x40082104
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1
_SECCOMP, _PIDFD_OPEN, _PIDFD_GETFD = 317, 434, 438
_libc = ctypes.CDLL(None, use_errno=True)


def reason_not_to() -> str | None:
    """Say why this machine cannot do it, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the calls are counted by their numbers on x86-64 Linux"
    actions = "/proc/sys/kernel/seccomp/actions_avail"
    try:
        with open(actions, encoding="ascii") as file:  # noqa: PTH123
            return None if "user_notif" in file.read() else "this kernel has no seccomp notifications"
    except OSError:
        return "this kernel has no seccomp"


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


_LOAD, _JUMP_IF, _RETURN = 0x20, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")
_ARCH_AT, _NUMBER_AT, _FD_OF_MMAP_AT = 4, 0, 16 + 8 * 4


def _filter() -> bytes:
    """The program that the kernel asks about every call: it allows, or lets another process decide."""
    numbers = [number for name, number in CALLS.items() if name != "mmap"]
    allow = 6 + len(numbers)
    notify = allow + 1
    code: list[bytes] = []

    def add(op: int, value: int, yes: int = 0, no: int = 0) -> None:
        code.append(_INSTRUCTION.pack(op, yes, no, value))

    def jump(value: int, yes: int, no: int) -> None:
        # Distances count from the next instruction.
        add(_JUMP_IF, value, yes - len(code) - 1, no - len(code) - 1)

    add(_LOAD, _ARCH_AT)
    jump(_ARCH, 2, allow)
    add(_LOAD, _NUMBER_AT)
    jump(CALLS["mmap"], 4, 6)
    # Memory that is no file is taken by every thread all the time.
    add(_LOAD, _FD_OF_MMAP_AT)
    jump(0xFFFFFFFF, allow, notify)
    for number in numbers:
        jump(number, notify, len(code) + 1)
    add(_RETURN, _ALLOW)
    add(_RETURN, _NOTIFY)
    return b"".join(code)


def listen() -> int:
    """Have the calls of this process stop from now on; gives the listener, for another process.

    Raises:
        OSError: The kernel refuses.
    """
    code = _filter()
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // _INSTRUCTION.size, ctypes.addressof(held))
    set_no_new_privileges, set_mode_filter, new_listener = 38, 1, 8
    if _libc.prctl(set_no_new_privileges, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")
    fd: int = _libc.syscall(_SECCOMP, set_mode_filter, new_listener, ctypes.byref(program))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "the filter is refused")
    return fd


class Notice(NamedTuple):
    """One call that waits."""

    ident: int
    thread: int
    name: str
    args: tuple[int, ...]


class Listener:
    """Answers for one child and all its threads; a context manager.

    Args:
        fd: What :func:`listen` gave the child, brought here.
        pid: The child.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self.fd = fd
        self._pidfd: int = _libc.syscall(_PIDFD_OPEN, pid, 0)
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._buffer = bytearray(_NOTICE.size)
        with contextlib.suppress(OSError):
            # The child and its supervisor take turns, best on one processor; a younger kernel knows that.
            fcntl.ioctl(fd, _SET_FLAGS, 1)

    def close(self) -> None:
        """Calls that still wait fail with ``ENOSYS`` then."""
        for fd in (self.fd, self._pidfd, self._memory, self._null):
            os.close(fd)

    def receive(self) -> Notice | None:
        """Give the next call that waits; None if its thread has died meanwhile."""
        self._buffer[:] = bytes(_NOTICE.size)
        try:
            fcntl.ioctl(self.fd, _RECEIVE, self._buffer)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINTR}:
                return None
            raise
        ident, thread, _, number, _, _, *args = _NOTICE.unpack(self._buffer)
        return Notice(ident, thread, _NAMES[number], tuple(args))

    def let(self, notice: Notice) -> None:
        """Let the call be carried out."""
        self._answer(notice, 0, 0, _CONTINUE)

    def fail(self, notice: Notice, code: int) -> None:
        """Have the call fail without being carried out; a ``close`` closes all the same, as in life."""
        if notice.name == "close":
            # Nobody can close what is another's; something else in its place has the same effect.
            set_fd, close_on_exec = 1, os.O_CLOEXEC
            place = struct.pack("=QIIII", notice.ident, set_fd, self._null, notice.args[0], close_on_exec)
            fcntl.ioctl(self.fd, _ADD_FD, place)
        self._answer(notice, 0, -code, 0)

    def shorten(self, notice: Notice) -> bool:
        """Carry out half of a read or a write; False if that makes no sense with this call."""
        fd, address, count = notice.args[:3]
        if notice.name not in SHORTENED:
            return False
        if notice.name.startswith("preadv"):
            # All of ours have one piece.
            address, count = struct.unpack("=QQ", os.pread(self._memory, 16, address))
        half = count // 2
        here: int = _libc.syscall(_PIDFD_GETFD, self._pidfd, fd, 0)
        if here < 0:
            return False
        try:
            if fcntl.fcntl(here, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
                half -= half % 4096
            if not half:
                return False
            done = self._half(notice, here, address, half)
        finally:
            os.close(here)
        self._answer(notice, done, 0, 0)
        return True

    def _half(self, notice: Notice, here: int, address: int, half: int) -> int:
        name, offset = notice.name, notice.args[3]
        with mmap.mmap(-1, half) as memory:  # page-aligned, as direct writes want it
            if "write" in name:
                memory[:] = os.pread(self._memory, half, address)
                with memoryview(memory) as view:
                    return os.write(here, view) if name == "write" else os.pwrite(here, view, offset)
        data = os.read(here, half) if name == "read" else os.pread(here, half, offset)
        return os.pwrite(self._memory, data, address)

    def text(self, address: int) -> str:
        """Read a string of the child, such as a path."""
        data = os.pread(self._memory, 4096 - address % 4096, address)
        if b"\0" not in data:
            data += os.pread(self._memory, 4096, address + len(data))
        return os.fsdecode(data.partition(b"\0")[0])

    def _answer(self, notice: Notice, value: int, code: int, flags: int) -> None:
        try:
            fcntl.ioctl(self.fd, _SEND, _ANSWER.pack(notice.ident, value, code, flags))
        except OSError as error:
            if error.errno != errno.ENOENT:  # it was killed while it waited
                raise
