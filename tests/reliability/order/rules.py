"""The protocol of the local store as rules over operations. Pure.

A name lasts when its directory was synced after it was given; bytes last when their file was synced after the
last write. Both have to be over before whatever stands on them begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.reliability.order.log import Operation

__all__ = ["Disk", "Violation", "check"]

_STEP = re.compile(r"step-[0-9]{8,19}")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, and where in the log."""

    rule: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}: {self.rule}"


@dataclass
class _File:
    """What is known about the bytes of a file, whatever its names are."""

    written: int = 0
    synced: int = -1
    done: int = -1
    dead: bool = False

    def lasts(self, before: int) -> bool:
        return not self.dead and self.synced > self.written and self.done < before


@dataclass
class _Name:
    """A change of a name that may not last yet."""

    directory: str
    name: str
    placed: bool
    since: int


@dataclass
class Disk:
    """What the operations so far have made of the disk; tells what each next one breaks.

    Args:
        root: The directory of the checkpoints.
        there: Names of those that are there when the log begins.
        keep: How many whole ones are left at least when one goes.
    """

    root: str
    there: set[str] = field(default_factory=set)
    keep: int = 1
    found: list[Violation] = field(default_factory=list)
    locked: bool = False
    _files: dict[str, _File] = field(default_factory=dict)
    _directories: set[str] = field(default_factory=set)
    _unsure: list[_Name] = field(default_factory=list)
    _was: dict[str, str] = field(default_factory=dict)
    _listed: int = -1
    _root_synced: int = -1
    _placed: set[str] = field(default_factory=set)
    _restored: str = ""
    _pinned: set[str] = field(default_factory=set)

    def see(self, op: Operation) -> None:
        """Judge one operation, then let it happen."""
        if op.kind != "mark" and not self._concerns(op.path):
            return
        if op.ok or op.kind in {"sync", "write", "mark"}:
            getattr(self, f"_{op.kind}")(op)

    # -- files ---------------------------------------------------------------------------------------

    def _create(self, op: Operation) -> None:
        directory, name = _split(op.path)
        if name == ".lock" and directory == self.root:
            return
        self._owned(op)
        if _STEP.fullmatch(_split(directory)[1]) and not name.startswith(".tmp-"):
            self._broken("a file is made in a checkpoint that is there already", op)
        if name == _MANIFEST:
            for path, file in self._within(directory):
                if not file.lasts(op.start):
                    self._broken(f"the manifest is begun before {_split(path)[1]} is on the disk", op)
        elif f"{directory}/{_MANIFEST}" in self._files and not _STEP.fullmatch(_split(directory)[1]):
            self._broken("a file is made after the manifest", op)
        self._files[op.path] = _File(written=op.end)
        self._changed(op.path, op, placed=True)

    def _write(self, op: Operation) -> None:
        directory, name = _split(op.path)
        if (directory, name) == (self.root, ".lock"):
            return
        self._owned(op)
        file = self._files.setdefault(op.path, _File())
        if _STEP.fullmatch(_split(directory)[1]) and not name.startswith(".tmp-"):
            self._broken("bytes of a checkpoint change after its rename", op)
        if file.synced >= 0:
            self._broken("a write after the last fsync of the file", op)
        file.written = op.end

    def _sync(self, op: Operation) -> None:
        if op.ok:
            self._unsure = [e for e in self._unsure if e.directory != op.path or e.since >= op.start]
            if op.path == self.root:
                self._root_synced = op.start
        file = self._files.setdefault(op.path, _File())
        if not op.ok:
            file.dead = True
        elif file.synced <= file.written:
            file.synced, file.done = op.start, op.end

    def _link(self, op: Operation) -> None:
        self._owned(op)
        # One file with two names. What was written before the log began is not known to last.
        self._files[op.other] = self._files.setdefault(op.path, _File())
        self._changed(op.other, op, placed=True)

    def _symlink(self, op: Operation) -> None:
        self._broken("a symbolic link is made", op)

    def _unlink(self, op: Operation) -> None:
        self._removal(op)
        self._files.pop(op.path, None)
        self._changed(op.path, op, placed=False)

    # -- directories ---------------------------------------------------------------------------------

    def _mkdir(self, op: Operation) -> None:
        if not self._is_above(op.path) and op.path != self.root:
            self._owned(op)
        self._directories.add(op.path)
        self._changed(op.path, op, placed=True)

    def _rmdir(self, op: Operation) -> None:
        self._removal(op)
        self._was.pop(op.path, None)
        self._directories.discard(op.path)
        self._changed(op.path, op, placed=False)

    def _rename(self, op: Operation) -> None:
        self._owned(op)
        directory, name = _split(op.other)
        if _STEP.fullmatch(_split(directory)[1]):
            if not self._files.get(op.path, _File()).lasts(op.start):
                self._broken("a file gets its name in a checkpoint before its bytes are on the disk", op)
        elif _STEP.fullmatch(name):
            if op.path in self._was:
                self.there.add(name)
            else:
                self._complete(op.path, op)
        elif _STEP.fullmatch(_split(op.path)[1]):
            self._older_goes(op)
            gone = _split(op.path)[1]
            self.there.discard(gone)
            if not self.there:
                self._broken("the only checkpoint goes", op)
            if len(self.there) < self.keep:
                self._broken(f"one goes, and fewer than {self.keep} whole ones are left", op)
            if gone in self._pinned and not name.startswith(".abandoned-"):
                self._broken("a pinned one goes", op)
            if gone == self._restored:
                self._broken("the one that was restored from goes", op)
        self._move(op.path, op.other)
        self._changed(op.path, op, placed=False)
        self._changed(op.other, op, placed=True)

    def _exchange(self, op: Operation) -> None:
        self._owned(op)
        self._complete(op.path, op)
        self._older_goes(op)
        aside = f"{op.other}\0"
        for source, target in ((op.other, aside), (op.path, op.other), (aside, op.path)):
            self._move(source, target)
        self._changed(op.path, op, placed=True)
        self._changed(op.other, op, placed=True)

    def _list(self, op: Operation) -> None:
        # The first since the last mark: who deletes rubbish beside the act lists later ones, for itself.
        if op.path == self.root and self._listed < 0:
            self._listed = op.end

    def _complete(self, path: str, op: Operation) -> None:
        """Judge a directory that becomes a checkpoint."""
        if f"{path}/{_MANIFEST}" not in self._files:
            self._broken("the rename comes before the manifest", op)
        for inner, file in self._within(path):
            if not file.lasts(op.start):
                self._broken(f"the rename comes before {_split(inner)[1]} is on the disk", op)
        for entry in self._unsure:
            if entry.directory == path:
                self._broken(f"the rename comes before the name {entry.name} is on the disk", op)
        name = _split(op.other)[1]
        self._placed.add(name)
        self.there.add(name)

    def _older_goes(self, op: Operation) -> None:
        for entry in self._unsure:
            if entry.directory == self.root and entry.placed and _STEP.fullmatch(entry.name):
                self._broken(f"an older one goes before {entry.name} is durable", op)

    def _removal(self, op: Operation) -> None:
        """Judge the removal of something."""
        self._owned(op)
        for path in (op.path, _split(op.path)[0]):
            if _STEP.fullmatch(_split(path)[1]) and not _split(op.path)[1].startswith(".tmp-"):
                self._broken("something is deleted under the name of a checkpoint", op)
            was = self._was.get(path)
            if was and any(entry.directory == self.root and entry.name == was for entry in self._unsure):
                self._broken(f"what was {was} is deleted before its new name is on the disk", op)
        if self._is_left(op.path) and self._root_synced < 0:
            self._broken("what a dead writer left is deleted before the names are on the disk", op)

    def _is_left(self, path: str) -> bool:
        """Whether something lies in rubbish that was there before the log began."""
        top, _, _ = path.removeprefix(f"{self.root}/").partition("/")
        place = f"{self.root}/{top}"
        return top.startswith((".tmp-", ".trash-")) and place not in {*self._directories, *self._was}

    # -- the lock ------------------------------------------------------------------------------------

    def _lock(self, op: Operation) -> None:
        if op.path == f"{self.root}/.lock":
            self.locked = True

    def _close(self, op: Operation) -> None:
        if op.path == f"{self.root}/.lock":
            self.locked = False

    def _owned(self, op: Operation) -> None:
        pins = f"{self.root}/.pins"
        if not self.locked and op.path != pins and not op.path.startswith(f"{pins}/"):
            self._broken("the directory is changed without the lock", op)

    # -- what was said -------------------------------------------------------------------------------

    def _mark(self, op: Operation) -> None:
        kind, step, _code, verdict, found, *_ = [*op.path.split("/"), "", "", "", ""]
        listed, self._listed = self._listed, -1
        if kind == "begin" and step == "unpin":
            # Whatever comes of it: one that failed behind the deletion of the pin may have ended it.
            self._pinned.discard(f"step-{int(_code):08d}")
        if verdict != "ok":
            return
        kind = "save" if kind == "hold" else kind
        name = f"step-{int(step):08d}"
        pin = f"pin-{name}"
        sure: dict[str, list[tuple[str, str]]] = {
            "save": [(self.root, name)],
            "report": [(f"{self.root}/{name}", "report.json")],
            "delete": [(self.root, name)],
            "pin": [(self.root, ".pins"), (f"{self.root}/.pins", pin)],
            "unpin": [(f"{self.root}/.pins", pin)],
        }
        for entry in self._unsure:
            place = entry.directory, entry.name
            above = self._is_above(entry.directory)
            every = kind == "abandon" and entry.directory == self.root and _STEP.fullmatch(entry.name)
            if entry.since < op.start and (
                place in sure.get(kind, ()) or every or (kind == "save" and above)
            ):
                self._broken(f"{kind} of {step} is said to be done before {entry.name} is on the disk", op)
        if kind == "save" and name not in self._placed:
            self._broken("a save is said to be done that no rename has placed", op)
        self._placed.discard(name)
        if kind in {"list", "restore"} and self._root_synced < listed:
            self._broken("checkpoints are listed whose names may not last", op)
        if kind == "pin":
            self._pinned.add(name)
        if kind == "unpin":
            self._pinned.discard(name)
        if kind == "restore":
            self._restored = f"step-{int(found.partition('=')[0]):08d}"
            if int(step) < 0 and self._restored != max(self.there):
                self._broken("another one is restored than the newest", op)
        if kind == "close" and self.locked:
            self._broken("closed, and the lock is still held", op)

    # -- names ---------------------------------------------------------------------------------------

    def _concerns(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root}/") or self._is_above(path)

    def _is_above(self, path: str) -> bool:
        return self.root.startswith(f"{path.rstrip('/')}/")

    def _within(self, directory: str) -> list[tuple[str, _File]]:
        return [(path, file) for path, file in self._files.items() if _split(path)[0] == directory]

    def _changed(self, path: str, op: Operation, *, placed: bool) -> None:
        directory, name = _split(path)
        self._unsure = [e for e in self._unsure if (e.directory, e.name) != (directory, name)]
        self._unsure.append(_Name(directory, name, placed, op.end))

    def _move(self, source: str, target: str) -> None:
        def moved(path: str) -> str:
            inside = path == source or path.startswith(f"{source}/")
            return target + path.removeprefix(source) if inside else path

        self._files = {
            moved(path): file for path, file in self._files.items() if path != target or source == path
        }
        self._directories = {moved(path) for path in self._directories}
        for entry in self._unsure:
            entry.directory = moved(entry.directory)
        was = {moved(path): name for path, name in self._was.items()}
        name = _split(source)[1]
        if _STEP.fullmatch(name) and _split(source)[0] == self.root:
            was[target] = name
        self._was = was

    def _broken(self, rule: str, op: Operation) -> None:
        self.found.append(Violation(rule, op.path, op.start))


def _split(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory, name


def check(
    operations: Iterable[Operation], root: str, there: Iterable[str] = (), keep: int = 1
) -> list[Violation]:
    """Judge all of them; see :class:`Disk`."""
    disk = Disk(root, set(there), keep)
    for operation in operations:
        disk.see(operation)
    return disk.found
