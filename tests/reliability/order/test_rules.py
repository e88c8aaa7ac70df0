"""The checker of orders misses nothing: each rule is broken once, in a log made by hand."""

from __future__ import annotations

import pytest

from tests.reliability.order.log import Operation, read_log
from tests.reliability.order.rules import check

ROOT = "/d/runs"
NEW = ".tmp-step-00000002-aa"
OLD = ".trash-step-00000001-bb"


def made(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f'openat(8<{directory}>, "{name}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 9<{path}>'


def wrote(path: str) -> str:
    return f'pwrite64(9<{path}>, ""..., 8, 0) = 8'


def synced(path: str) -> str:
    return f"fsync(9<{path}>) = 0"


def renamed(old: str, new: str) -> str:
    return f'renameat(6<{ROOT}>, "{old}", 6<{ROOT}>, "{new}") = 0'


def said(text: str) -> str:
    return f'access("/async-ckpt-mark/{text}", F_OK) = -1 ENOENT (No such file or directory)'


def file(name: str) -> list[str]:
    path = f"{ROOT}/{NEW}/{name}"
    return [made(path), wrote(path), synced(path)]


X, M = f"{ROOT}/{NEW}/x", f"{ROOT}/{NEW}/manifest.json"
PINS, PIN = f"{ROOT}/.pins", f"{ROOT}/.pins/pin-step-00000001"
LOCKED = f"flock(7<{ROOT}/.lock>, LOCK_EX|LOCK_NB) = 0"
MADE_ROOT, ABOVE = 'mkdir("/d/runs", 0777) = 0', synced("/d")
MADE_NEW = f'mkdirat(6<{ROOT}>, "{NEW}", 0777) = 0'
IN_NEW, IN_ROOT = synced(f"{ROOT}/{NEW}"), synced(ROOT)
PLACED = renamed(NEW, "step-00000002")
SAVED = said("save/2/201/ok/")
GONE = renamed("step-00000001", OLD)
DELETED = said("delete/1/0/ok/")
UNLINKED = f'unlinkat(9<{ROOT}/{OLD}>, "x", 0) = 0'
RMDIR = f'unlinkat(6<{ROOT}>, "{OLD}", AT_REMOVEDIR) = 0'
CLOSED = f"close(7<{ROOT}/.lock>) = 0"
OVER = said("close/-1/0/ok/")
LISTED = f"getdents64(8<{ROOT}>, 0x7f0 /* 5 entries */, 32768) = 160"
SAID_LIST = said("list/-1/0/ok/1=101")

SAVE = [*file("x"), *file("manifest.json"), IN_NEW, PLACED, IN_ROOT, SAVED]
GOOD = [MADE_ROOT, ABOVE, LOCKED, MADE_NEW, *SAVE, GONE, IN_ROOT, DELETED, UNLINKED, RMDIR, CLOSED, OVER]

TEMP = f"{ROOT}/step-00000002/.tmp-report.json-cc"
NAMED = (
    f'renameat(9<{ROOT}/step-00000002>, ".tmp-report.json-cc", 9<{ROOT}/step-00000002>, "report.json") = 0'
)
IN_STEP = synced(f"{ROOT}/step-00000002")
REPORT = [LOCKED, made(TEMP), wrote(TEMP), synced(TEMP), NAMED, IN_STEP, said("report/2/202/ok/")]

PINNED = [f'mkdirat(6<{ROOT}>, ".pins", 0777) = 0', IN_ROOT, made(PIN), synced(PINS), said("pin/1/0/ok/")]
UNPINNED = [f'unlinkat(8<{PINS}>, "pin-step-00000001", 0) = 0', synced(PINS), said("unpin/1/0/ok/")]
ASIDE = [LOCKED, renamed("step-00000002", ".abandoned-step-00000002-dd"), IN_ROOT, said("abandon/1/0/ok/")]
SWAPPED = f'renameat2(6<{ROOT}>, "{NEW}", 6<{ROOT}>, "step-00000002", RENAME_EXCHANGE) = 0'
SWAP = [LOCKED, MADE_NEW, *SAVE[:-3], SWAPPED, IN_ROOT, f'unlinkat(9<{ROOT}/{NEW}>, "x", 0) = 0', SAVED]
LINKED = f'linkat(5<{ROOT}/step-00000001>, "x", 8<{ROOT}/{NEW}>, "x", 0) = 0'
REUSE = [LOCKED, MADE_NEW, LINKED, synced(X), *SAVE[3:]]
LISTING = [LISTED, IN_ROOT, SAID_LIST]
SWEPT = [LOCKED, IN_ROOT, f'unlinkat(9<{ROOT}/.tmp-step-00000003-ee>, "x", 0) = 0']


def numbered(lines: list[str]) -> list[str]:
    return [f"{4000 + place % 3} {line}" for place, line in enumerate(lines)]


def broken(lines: list[str]) -> list[str]:
    return [violation.rule for violation in check(read_log(numbered(lines)), ROOT, ["step-00000001"])]


def without(lines: list[str], *gone: str, last: bool = False) -> list[str]:
    left = list(lines)
    for line in gone:
        place = len(left) - 1 - left[::-1].index(line) if last else left.index(line)
        del left[place]
    return left


def moved(lines: list[str], line: str, *, before: str) -> list[str]:
    left = without(lines, line)
    left.insert(left.index(before), line)
    return left


def after(lines: list[str], line: str, *new: str) -> list[str]:
    place = lines.index(line) + 1
    return [*lines[:place], *new, *lines[place:]]


def test_the_protocol_breaks_no_rule() -> None:
    for lines in (GOOD, REPORT, PINNED, UNPINNED, ASIDE, SWAP, REUSE, LISTING, SWEPT):
        assert broken(lines) == []


FAILED = synced(X).replace("= 0", "= -1 EIO (Input/output error) (INJECTED)")


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        (without(GOOD, synced(X)), "the manifest is begun before x is on the disk"),
        (without(GOOD, synced(X)), "the rename comes before x is on the disk"),
        (without(GOOD, synced(M)), "the rename comes before manifest.json is on the disk"),
        (after(GOOD, synced(X), wrote(X)), "a write after the last fsync of the file"),
        (after(GOOD, synced(X), f"ftruncate(9<{X}>, 8) = 0"), "a write after the last fsync of the file"),
        (after(GOOD, made(X), FAILED), "the rename comes before x is on the disk"),
        (after(GOOD, synced(M), *file("y")), "a file is made after the manifest"),
        (without(GOOD, made(M), wrote(M), synced(M)), "the rename comes before the manifest"),
        (without(GOOD, IN_NEW), "the rename comes before the name x is on the disk"),
        (
            moved(GOOD, IN_NEW, before=made(M)),
            "the rename comes before the name manifest.json is on the disk",
        ),
        (moved(GOOD, PLACED, before=IN_NEW), "the rename comes before the name x is on the disk"),
        (without(GOOD, IN_ROOT), "save of 2 is said to be done before step-00000002 is on the disk"),
        (
            moved(GOOD, IN_ROOT, before=PLACED),
            "save of 2 is said to be done before step-00000002 is on the disk",
        ),
        (without(GOOD, IN_ROOT), "an older one goes before step-00000002 is durable"),
        (moved(GOOD, GONE, before=PLACED), "the only checkpoint goes"),
        (moved(GOOD, GONE, before=IN_ROOT), "an older one goes before step-00000002 is durable"),
        (without(GOOD, ABOVE), "save of 2 is said to be done before runs is on the disk"),
        (moved(GOOD, SAVED, before=PLACED), "a save is said to be done that no rename has placed"),
        (
            after(GOOD, SAVED, wrote(f"{ROOT}/step-00000002/x")),
            "bytes of a checkpoint change after its rename",
        ),
        (
            after(GOOD, SAVED, made(f"{ROOT}/step-00000002/y")),
            "a file is made in a checkpoint that is there already",
        ),
        (
            without(GOOD, IN_ROOT, last=True),
            "delete of 1 is said to be done before step-00000001 is on the disk",
        ),
        (
            without(GOOD, IN_ROOT, last=True),
            "what was step-00000001 is deleted before its new name is on the disk",
        ),
        (
            [LOCKED, f'unlinkat(9<{ROOT}/step-00000001>, "x", 0) = 0'],
            "something is deleted under the name of a checkpoint",
        ),
        (
            [LOCKED, f'unlinkat(6<{ROOT}>, "step-00000001", AT_REMOVEDIR) = 0'],
            "something is deleted under the name of a checkpoint",
        ),
        (without(GOOD, LOCKED), "the directory is changed without the lock"),
        (moved(GOOD, CLOSED, before=UNLINKED), "the directory is changed without the lock"),
        (without(GOOD, CLOSED), "closed, and the lock is still held"),
        (
            without(REPORT, synced(TEMP)),
            "a file gets its name in a checkpoint before its bytes are on the disk",
        ),
        (without(REPORT, IN_STEP), "report of 2 is said to be done before report.json is on the disk"),
        (
            without(PINNED, synced(PINS)),
            "pin of 1 is said to be done before pin-step-00000001 is on the disk",
        ),
        (without(PINNED, IN_ROOT), "pin of 1 is said to be done before .pins is on the disk"),
        (
            without(UNPINNED, synced(PINS)),
            "unpin of 1 is said to be done before pin-step-00000001 is on the disk",
        ),
        (without(ASIDE, IN_ROOT), "abandon of 1 is said to be done before step-00000002 is on the disk"),
        (without(SWAP, IN_ROOT), "what was step-00000002 is deleted before its new name is on the disk"),
        (without(SWAP, synced(M)), "the rename comes before manifest.json is on the disk"),
        (without(REUSE, synced(X)), "the rename comes before x is on the disk"),
        (without(LISTING, IN_ROOT), "checkpoints are listed whose names may not last"),
        (moved(LISTING, IN_ROOT, before=LISTED), "checkpoints are listed whose names may not last"),
        (
            without(SWEPT, IN_ROOT),
            "what a dead writer left is deleted before the names are on the disk",
        ),
        ([LOCKED, f'symlinkat("x", 6<{ROOT}>, "step-00000009") = 0'], "a symbolic link is made"),
    ],
)
def test_each_rule_is_missed_when_it_is_broken(lines: list[str], rule: str) -> None:
    assert rule in broken(lines)


def test_what_began_before_the_other_was_over_was_not_after_it() -> None:
    def overlap(first: str, second: str) -> list[str]:
        """The second call begins while the first one still runs."""
        place = GOOD.index(first)
        head, tail = first.rsplit(" = ", 1)
        assert GOOD[place + 1] == second
        lines = numbered(GOOD)
        name = first.partition("(")[0]
        return [
            *lines[:place],
            f"7000 {head[:-1]} <unfinished ...>",
            f"7001 {second}",
            f"7000 <... {name} resumed>) = {tail}",
            *lines[place + 2 :],
        ]

    for first, second, rule in (
        (wrote(X), synced(X), "the rename comes before x is on the disk"),
        (synced(X), made(M), "the manifest is begun before x is on the disk"),
        (PLACED, IN_ROOT, "save of 2 is said to be done before step-00000002 is on the disk"),
    ):
        rules = [violation.rule for violation in check(read_log(overlap(first, second)), ROOT)]
        assert rule in rules


def test_what_goes_is_neither_needed_nor_restored_from() -> None:
    gone = [LOCKED, renamed("step-00000001", OLD), IN_ROOT]
    listed = [LISTED, IN_ROOT]

    def rules(lines: list[str], keep: int) -> list[str]:
        there = ["step-00000001", "step-00000002"]
        return [found.rule for found in check(read_log(numbered(lines)), ROOT, there, keep)]

    assert rules(gone, 1) == []
    assert rules(gone, 2) == ["one goes, and fewer than 2 whole ones are left"]
    first = said("restore/1/0/ok/1=101")
    assert rules([*listed, first, *gone], 1) == ["the one that was restored from goes"]
    assert rules([*listed, said("restore/-1/0/ok/2=201"), *gone], 1) == []
    assert rules([LOCKED, *PINNED, *gone], 1) == ["a pinned one goes"]
    assert rules([LOCKED, *PINNED, *UNPINNED, *gone], 1) == []
    failed = [said("begin/unpin/1/0"), said("unpin/1/0/unknown/")]
    assert rules([LOCKED, *PINNED, *failed, *gone], 1) == []
    assert rules([*listed, said("restore/-1/0/ok/1=101")], 1) == ["another one is restored than the newest"]


def test_who_deletes_rubbish_beside_a_listing_lists_for_itself() -> None:
    assert not broken([LISTED, IN_ROOT, LISTED, SAID_LIST])
    assert broken([LISTED, IN_ROOT, SAID_LIST, LISTED, SAID_LIST])


def test_a_line_that_is_not_understood_is_an_error_and_not_overlooked() -> None:
    for line in ("fsync(3</d>) = 0", "4000 fsync(3</d>", "4000 something else"):
        with pytest.raises(ValueError, match="line 1 of the log is not understood"):
            list(read_log([line]))


def test_every_way_to_write_is_a_write() -> None:
    lines = [
        'write(9</d/x>, ""..., 8) = 8',
        'writev(9</d/x>, [{iov_base=""..., iov_len=8}], 1) = 8',
        'pwritev2(9</d/x>, [{iov_base=""..., iov_len=8}], 1, 0, 0) = 8',
        "ftruncate(9</d/x>, 0) = 0",
        "fallocate(9</d/x>, 0, 0, 8) = 0",
        'truncate("/d/x", 0) = 0',
        "copy_file_range(5</d/y>, NULL, 9</d/x>, NULL, 8, 0) = 8",
        "sendfile(9</d/x>, 5</d/y>, NULL, 8) = 8",
    ]
    assert [(op.kind, op.path) for op in read_log(numbered(lines))] == [("write", "/d/x")] * len(lines)
    (swap,) = read_log(numbered([SWAPPED]))
    assert swap == Operation("exchange", f"{ROOT}/{NEW}", f"{ROOT}/step-00000002", 1, 1)
