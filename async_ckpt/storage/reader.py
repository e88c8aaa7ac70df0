"""The readers' side of a local directory: listing, views, pins and leases; takes no writer's lock.

All of it blocks, and is called in a thread.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from async_ckpt.errors import RestoreError
from async_ckpt.storage import pins, posix, writing
from async_ckpt.storage.names import step_name
from async_ckpt.storage.reading import View, no_checkpoint, open_root
from async_ckpt.storage.writing import save_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from async_ckpt.storage.lock import HeldFile

__all__ = ["Lease", "Reader"]

P = ParamSpec("P")
T = TypeVar("T")


class Lease:
    """A lease file, None where it could not be written, and the view it protects."""

    def __init__(self, file: HeldFile | None, view: View) -> None:
        self.file = file
        self.view = view


class Reader:
    """Reads the directory at ``location``, which need not exist, and opens it anew for each call."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._leased: dict[int, View] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _root(self) -> Iterator[int]:
        """Open the directory, and turn an ``OSError`` about it into a ``RestoreError``."""
        try:
            with open_root(self._location) as root:
                yield root
        except FileNotFoundError:
            raise
        except OSError as error:
            msg = f"{self._location}: {posix.cause_of(error)}"
            raise RestoreError(msg, path=self._location) from error

    def list_steps(self) -> list[int]:
        """List what is committed, ascending."""
        try:
            with self._root() as root:
                return writing.list_steps(root)
        except FileNotFoundError:
            return []

    def with_view(
        self, step: int, fn: Callable[Concatenate[View, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``fn`` with the view of ``step``, which is the leased one if there is a lease."""
        view = self._borrow(step)
        try:
            return fn(view, *args, **kwargs)
        finally:
            self._give_back(view)

    def open_now(self, step: int) -> View:
        """Open the checkpoint that is there now; the caller closes it."""
        try:
            with self._root() as root:
                return View.of(root, self._location, step)
        except FileNotFoundError as error:
            raise no_checkpoint(self._location, step) from error

    def pin(self, step: int) -> None:
        """Pin a step."""
        path = f"{self._location}/{step_name(step)}"
        try:
            with self._root() as root:
                with save_errors(path, step):
                    pins.pin(root, step)
                try:
                    # After the pin, so that a removal either sees it or has happened before this look.
                    View.of(root, self._location, step).close()
                except RestoreError:
                    with save_errors(path, step):
                        pins.unpin(root, step)
                    raise
        except FileNotFoundError as error:
            raise no_checkpoint(self._location, step) from error

    def unpin(self, step: int) -> None:
        """End a pin."""
        path = f"{self._location}/{step_name(step)}"
        with contextlib.suppress(FileNotFoundError), self._root() as root, save_errors(path, step):
            pins.unpin(root, step)

    def pinned(self) -> set[int]:
        """Return the steps that are pinned or read."""
        try:
            with self._root() as root:
                return pins.pinned(root)
        except FileNotFoundError:
            return set()

    def is_alone(self, step: int) -> bool:
        """Say whether the only lease of a step is the caller's; not where nobody can take one."""
        try:
            with self._root() as root:
                return pins.lease_count(root, step) == 1
        except FileNotFoundError as error:
            raise no_checkpoint(self._location, step) from error

    def take_lease(self, step: int) -> Lease:
        """Lease a step and keep it open."""
        try:
            with self._root() as root:
                file = pins.take_lease(root, step)
                try:
                    # After the lease, for the same reason as in pin().
                    view = View.of(root, self._location, step)
                except BaseException:
                    if file is not None:
                        pins.drop_lease(root, file)
                    raise
        except FileNotFoundError as error:
            raise no_checkpoint(self._location, step) from error
        with self._lock:
            first = self._leased.setdefault(step, view)
            if first is not view:
                first.users += 1
                view.close()
            first.leases += 1
        return Lease(file, first)

    def drop_lease(self, lease: Lease) -> None:
        """End a lease."""
        view = lease.view
        with self._lock:
            view.leases -= 1
            if not view.leases:
                del self._leased[view.step]
        self._give_back(view)
        if lease.file is not None:
            try:
                with open_root(self._location) as root:
                    pins.drop_lease(root, lease.file)
            except OSError:
                # Unlocked is enough: whoever looks next removes the file.
                lease.file.close()

    def _borrow(self, step: int) -> View:
        with self._lock:
            view = self._leased.get(step)
            if view is not None:
                view.users += 1
                return view
        return self.open_now(step)

    def _give_back(self, view: View) -> None:
        with self._lock:
            view.users -= 1
            unused = not view.users
        if unused:
            view.close()
