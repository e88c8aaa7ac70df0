"""GPU tensors into staging memory, beside the training: pinned pages, own streams, an event at the end.

torch is looked up, never imported, and CUDA is never initialised here: a tensor on a GPU can only exist once
it is. Where memory cannot be pinned, and on devices of other makes, the copies are plain ones: they keep a
thread busy, and take several times as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .arrays import Bytes
from .layout import Layout
from .placing import Placing
from .torch_arrays import flat_bytes, lies_elsewhere, load

__all__ = ["Copier", "Mark", "Pending", "Pin", "Place", "devices", "in_use", "mark", "pin", "places"]

_SMALL = 256 * 2**10
"""Bytes up to which neighbours are put together on the device: a copy for each would cost more."""

_TOGETHER = 16 * 2**20
"""Bytes of device memory that a copy may take on the way: for small neighbours, or rows of odd strides."""

_PORTABLE = 1
"""Pinned for every device, not only for one (``cudaHostRegisterPortable``)."""


class Place(NamedTuple):
    """A tensor on a device, and where its bytes go in the staging memory."""

    start: int
    nbytes: int
    tensor: Any


def places(
    layout: Layout,
    placing: Placing,
    values: Sequence[Any],
    which: Callable[[Any], bool] = lies_elsewhere,
) -> dict[int, Place]:
    """Choose the leaves that are to be copied here, by their index.

    Args:
        layout: What lies in which file.
        placing: What lies where in memory; leaves that have no place there are left out.
        values: The leaves.
        which: Says which leaves to choose.
    """
    found: dict[int, Place] = {}
    for at, file in zip(placing.images, layout.files, strict=True):
        for placed in file.tensors:
            start = placing.stash.get(placed.index) if at is None else at + placed.offset_in_file
            if start is not None and placed.nbytes and which(values[placed.index]):
                found[placed.index] = Place(start, placed.nbytes, values[placed.index])
    return found


def in_use() -> bool:
    """Say whether the program uses CUDA through torch; where not, no leaf need be looked at."""
    torch = load()
    return torch is not None and bool(torch.cuda.is_initialized())


def devices(values: Iterable[Any]) -> frozenset[Any]:
    """Give the CUDA devices that leaves lie on."""
    return frozenset(
        value.device for value in values if lies_elsewhere(value) and value.device.type == "cuda"
    )


class Mark:
    """A point in the work of the GPUs; see :func:`mark`."""

    def __init__(self, events: dict[Any, Any]) -> None:
        self._events = events

    def wait(self) -> None:
        """Block the calling thread until everything before the mark is done; the interpreter is free."""
        for event in self._events.values():
            event.synchronize()

    def _pass(self, device: Any, stream: Any = None) -> None:
        """Let nothing by before the mark: on the stream, or in the calling thread if there is none."""
        event = self._events.get(device)
        if event is None:
            if device.type == "cuda":
                load().cuda.synchronize(device)
        elif stream is None:
            event.synchronize()
        else:
            stream.wait_event(event)


def mark(on: Iterable[Any]) -> Mark:
    """Mark the work that was given to CUDA devices so far; takes microseconds and waits for nothing.

    What counts is the calling thread's current stream on each device. So call it where the step was run,
    after the step; work on further streams has to be joined to that one before, as torch asks anyway.

    Args:
        on: The devices, as :func:`devices` gives them.
    """
    events = {}
    for device in on:
        cuda = load().cuda
        # Whoever waits for a blocking one sleeps; for others it would keep a core busy.
        events[device] = cuda.Event(blocking=True)
        events[device].record(cuda.current_stream(device))
    return Mark(events)


class Pending:
    """Copies on their way. The memory and the tensors belong to them until :meth:`wait` has returned."""

    def __init__(self, todo: list[Callable[[], None]], done: list[Any], kept: Any) -> None:
        self._todo = todo
        self._done = done
        self._kept = kept

    def wait(self) -> None:
        """Block the calling thread until every byte has arrived; the interpreter is free meanwhile.

        Raises:
            RuntimeError: A device failed. Nothing is on its way any more.
        """
        todo, self._todo = self._todo, []
        try:
            for job in todo:
                job()
        finally:
            _synchronize(self._done)
            self._done, self._kept = [], None


class Copier:
    """Copies tensors from devices to staging memory; keeps one stream for each CUDA device."""

    def __init__(self) -> None:
        self._streams: dict[Any, Any] = {}

    def start(
        self,
        chosen: Iterable[Place],
        memory: Bytes,
        *,
        after: Mark | None = None,
        pinned: bool = False,
    ) -> Pending:
        """Begin to copy.

        Into pinned memory the copies are only queued, on a stream beside the training's: some microseconds
        for each large tensor, and as many for a row of small ones, plus a few for each of them. Otherwise
        nothing happens before :meth:`Pending.wait`. Both may be called in any thread.

        Nobody may write to the tensors until ``wait`` has returned, except work that was queued before
        ``after``. They may be dropped: torch does not give their memory to others before.

        Args:
            chosen: What to copy where.
            memory: The staging memory, one writable row of bytes.
            after: What the copies have to wait for; None for everything that was given to the devices.
            pinned: Whether ``memory`` is pinned, by :func:`pin`.

        Raises:
            RuntimeError: A device failed, or has no room for what has to be put in order before it is
                copied. Nothing is on its way then.
        """
        by_device: dict[Any, list[Place]] = {}
        for place in sorted(chosen, key=_start):
            by_device.setdefault(place.tensor.device, []).append(place)
        if not by_device:
            return Pending([], [], None)
        target = load().from_numpy(memory)
        after = Mark({}) if after is None else after
        todo: list[Callable[[], None]] = []
        done: list[Any] = []
        try:
            for device, mine in by_device.items():
                if pinned and device.type == "cuda":
                    done.append(self._queue(device, mine, target, after))
                else:
                    todo.append(_copies(device, mine, target, after))
        except BaseException:
            _synchronize(done)
            raise
        return Pending(todo, done, (by_device, target))

    def _queue(self, device: Any, chosen: list[Place], target: Any, after: Mark) -> Any:
        cuda = load().cuda
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = cuda.Stream(device)
        after._pass(device, stream)
        done = cuda.Event(blocking=True)
        try:
            with cuda.stream(stream):
                _send(chosen, target, non_blocking=True)
                for place in chosen:
                    place.tensor.record_stream(stream)
                done.record(stream)
        except BaseException:
            # What was queued before it went wrong still writes to the memory.
            stream.synchronize()
            raise
        return done


def _copies(device: Any, chosen: list[Place], target: Any, after: Mark) -> Callable[[], None]:
    def copy() -> None:
        # The stream that is used is this thread's, which knows nothing of the training's.
        after._pass(device)
        _send(chosen, target, non_blocking=False)

    return copy


def _synchronize(events: list[Any]) -> None:
    for event in events:
        event.synchronize()


def _send(chosen: Sequence[Place], target: Any, *, non_blocking: bool) -> None:
    """Copy on the current stream; ``chosen`` is of one device, in the order of the memory."""
    for start, tensors in _runs(chosen):
        at = start
        for row in _rows(tensors):
            end = at + row.numel()
            target[at:end].copy_(row, non_blocking=non_blocking)
            at = end


def _runs(chosen: Iterable[Place]) -> Iterator[tuple[int, list[Any]]]:
    """Put small neighbours together that follow one another without a hole; give where each run starts."""
    run: list[Any] = []
    start = end = room = 0
    for place in chosen:
        if run and (place.start != end or place.nbytes > room):
            yield start, run
            run = []
        if not run:
            start = place.start
            # A large tensor leaves no room for others, and small ones none for it.
            room = _TOGETHER if place.nbytes <= _SMALL else 0
        run.append(place.tensor)
        end = place.start + place.nbytes
        room = min(_SMALL, start + _TOGETHER - end) if room else 0
    if run:
        yield start, run


def _rows(tensors: list[Any]) -> Iterator[Any]:
    """Give the bytes of a run, on their device, as rows that are no larger than they need be."""
    if len(tensors) > 1:
        yield load().cat([flat_bytes(tensor) for tensor in tensors])
        return
    (tensor,) = tensors
    if tensor.is_contiguous():
        yield flat_bytes(tensor)
        return
    length = tensor.shape[0]
    step = max(1, length * _TOGETHER // (tensor.numel() * tensor.element_size()))
    for at in range(0, length, step):
        yield flat_bytes(tensor[at : at + step])


def _start(place: Place) -> int:
    return place.start


class Pin:
    """Memory that is pinned; see :func:`pin`."""

    def __init__(self, address: int, device: Any) -> None:
        self._address = address
        self._device = device
        self._pinned = True

    def unpin(self) -> None:
        """Give the pages back to the care of the operating system; no copy may be on its way there.

        To be called before the memory is unmapped. May be called twice.
        """
        if self._pinned:
            self._pinned = False
            cuda = load().cuda
            with cuda.device(self._device):
                cuda.cudart().cudaHostUnregister(self._address)


def pin(memory: Any, device: Any) -> Pin | None:
    """Pin memory, so that devices copy to it on their own, at full speed.

    Takes some tenths of a second per gigabyte, and touches all pages: call it in a thread, once per arena.

    Args:
        memory: Writable, in whole pages.
        device: A CUDA device that is in use; CUDA is not started on any other for it.

    Returns:
        What ends it; None if CUDA is not in use here, or refuses for want of memory that may be locked.
    """
    torch = load()
    row = np.frombuffer(memory, np.uint8) if len(memory) else np.empty(0, np.uint8)
    if not in_use() or not len(row):
        return None
    address = row.ctypes.data
    with torch.cuda.device(device):
        if int(torch.cuda.cudart().cudaHostRegister(address, len(row), _PORTABLE)) == 0:
            return Pin(address, device)
        # CUDA keeps the error for this thread's next kernel, which would be blamed for it.
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device=device)
    return None
