"""Where a session differs from the recorded TensorFlow runs, case by case, and why.

Each trace here was written down from the contract before it was run; none was recorded. A case that is not
in this table has to give TensorFlow's own trace, files and latest checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVIATIONS", "Deviation", "Life"]


@dataclass(frozen=True, slots=True)
class Life:
    """What one process life does: its trace, and the steps that are on disk after it."""

    trace: list[str]
    files: list[int]


@dataclass(frozen=True, slots=True)
class Deviation:
    """Our version of a case; lives that are None are TensorFlow's own."""

    reason: str
    lives: list[Life | None]


def save(step: int, *listeners: str) -> list[str]:
    """A save with nothing unusual in it."""
    return [
        *(f"{name}.before_save@{step}" for name in listeners),
        f"save@{step}",
        *(f"{name}.after_save@{step}" for name in listeners),
    ]


def begin(*listeners: str) -> list[str]:
    """The entry of a new run: ``begin``, the save of step 0."""
    return [*(f"{name}.begin" for name in listeners), *save(0, *listeners), "entered"]


def end(step: int, *listeners: str, left: str = "left") -> list[str]:
    """The exit: everyone's ``end``, and what the caller sees."""
    return [*(f"{name}.end@{step}" for name in listeners), left]


def step(number: int, *inside: str) -> list[str]:
    """A step that comes back, and what happened in its boundary."""
    return ["step{", *inside, f"}}={number}"]


def saved_step(number: int, *listeners: str) -> list[str]:
    """A step whose boundary saves."""
    return step(number, *save(number, *listeners))


ERROR_ENDS = "an error leaves the session as it is, and every listener whose begin returned gets its end"
NO_END_OF_INPUT = "no exception class means the end of the input: a listener's error is an error"
NO_PREEMPTION = "no exception class is taken for a preemption: nothing is rolled back, the error leaves"
LISTENER_ERROR = "left raising ListenerError"

DEVIATIONS: dict[str, Deviation] = {
    "steps-per-run-hint-small": Deviation(
        "the grid counts steps; there is no hint that could make a save late",
        [
            Life(
                [
                    *begin("A"), *step(5), *saved_step(10, "A"), *step(15), *saved_step(20, "A"), *step(25),
                    *save(25, "A"), *end(25, "A"),
                ],
                [0, 10, 20, 25],
            )
        ],
    ),
    "stuck-step": Deviation(
        "a step counter that does not move raises",
        [Life([*begin("A"), "step{", *end(0, "A", left="left raising ValueError")], [0])],
    ),
    "vote": Deviation(
        "the save of the entry is the entry's boundary: every hook has seen the session by then",
        [
            Life(
                [
                    "P.begin", "A.begin", "B.begin", "Q.begin", "P.session_created", "Q.session_created",
                    *save(0, "A", "B"), "entered",
                    *step(1, "P.before_step", "Q.before_step", "P.after_step", "Q.after_step"),
                    *step(2, "P.before_step", "Q.before_step", "P.after_step", *save(2, "A", "B"),
                          "Q.after_step"),
                    "loop ended after 2", "P.end", "A.end@2", "B.end@2", "Q.end", "left",
                ],
                [0, 2],
            )
        ],
    ),
    "vote-initial": Deviation(
        "votes count at every save: one at the save of the entry stops before step 1",
        [Life([*begin("A"), "loop ended after 0", *end(0, "A")], [0])],
    ),
    "vote-initial-resume": Deviation(
        "votes count at every save, that after a restore included",
        [
            None,
            Life(
                ["A.begin", "restore@2", *save(2, "A"), "entered", "loop ended after 0", *end(2, "A")],
                [0, 2],
            ),
        ],
    ),
    "step-after-stop": Deviation(
        "a step after the stop raises SessionStopped, which leaves as a clean exit does: with end",
        [
            Life(
                [
                    *begin("A"), *saved_step(1, "A"), "should_stop=True", "step{",
                    *end(1, "A", left="left raising SessionStopped"),
                ],
                [0, 1],
            )
        ],
    ),
    "vote-lost-on-recovery": Deviation(
        "a vote is never lost: the session is not rebuilt, and stays stopped",
        [
            Life(
                [
                    *begin("A"), *step(1), *saved_step(2, "A"), "thread error Aborted", "should_stop=True",
                    "step{", *end(2, "A", left="left raising SessionStopped"),
                ],
                [0, 2],
            )
        ],
    ),
    "raise-begin-1": Deviation(
        ERROR_ENDS,
        [Life(["A.begin", "B.begin", "B raises RuntimeError", *end(0, "A", left=LISTENER_ERROR)], [])],
    ),
    "raise-before_save-1": Deviation(
        ERROR_ENDS,
        [
            Life(
                [
                    "A.begin", "B.begin", "C.begin", "A.before_save@0", "B.before_save@0",
                    "B raises RuntimeError", *end(0, "A", "B", "C", left=LISTENER_ERROR),
                ],
                [],
            )
        ],
    ),
    "raise-after_save-1": Deviation(
        "after_save reaches everyone whatever the others did; " + ERROR_ENDS,
        [
            Life(
                [
                    "A.begin", "B.begin", "C.begin", "A.before_save@0", "B.before_save@0", "C.before_save@0",
                    "save@0", "A.after_save@0", "B.after_save@0", "B raises RuntimeError", "C.after_save@0",
                    *end(0, "A", "B", "C", left=LISTENER_ERROR),
                ],
                [0],
            )
        ],
    ),
    "raise-before_save-2": Deviation(
        ERROR_ENDS,
        [
            Life(
                [
                    *begin("A", "B", "C"), *step(1), "step{", "A.before_save@2", "B.before_save@2",
                    "B raises RuntimeError", *end(2, "A", "B", "C", left=LISTENER_ERROR),
                ],
                [0],
            )
        ],
    ),
    "raise-after_save-final": Deviation(
        "after_save reaches everyone whatever the others did; " + ERROR_ENDS,
        [
            Life(
                [
                    *begin("A", "B", "C"), *step(1), *saved_step(2, "A", "B", "C"), *step(3),
                    "A.before_save@3", "B.before_save@3", "C.before_save@3", "save@3", "A.after_save@3",
                    "B.after_save@3", "B raises RuntimeError", "C.after_save@3",
                    *end(3, "A", "B", "C", left=LISTENER_ERROR),
                ],
                [0, 2, 3],
            )
        ],
    ),
    **{
        f"listener-{error}-after": Deviation(
            reason,
            [
                Life(
                    [
                        *begin("A", "B"), *step(1), "step{", "A.before_save@2", "B.before_save@2", "save@2",
                        "A.after_save@2", f"A raises {name}", "B.after_save@2",
                        *end(2, "A", "B", left=LISTENER_ERROR),
                    ],
                    [0, 2],
                )
            ],
        )
        for error, name, reason in [
            ("StopIteration", "StopIteration", NO_END_OF_INPUT),
            ("OutOfRange", "OutOfRange", NO_END_OF_INPUT),
            ("aborted", "Aborted", NO_PREEMPTION),
        ]
    },
    **{
        f"listener-{error}-before": Deviation(
            reason,
            [
                Life(
                    [
                        *begin("A", "B"), *step(1), "step{", "A.before_save@2", f"A raises {name}",
                        *end(2, "A", "B", left=LISTENER_ERROR),
                    ],
                    [0],
                )
            ],
        )
        for error, name, reason in [
            ("StopIteration", "StopIteration", NO_END_OF_INPUT),
            ("OutOfRange", "OutOfRange", NO_END_OF_INPUT),
            ("aborted", "Aborted", NO_PREEMPTION),
        ]
    },
    "listener-aborted-initial": Deviation(
        "nothing is retried without bound: the error leaves the entry",
        [Life(["A.begin", "A.before_save@0", "A raises Aborted", *end(0, "A", left=LISTENER_ERROR)], [])],
    ),
    "save-diskfull-caught": Deviation(
        "a failed save is not recorded as done: it is due again one boundary later, and the grid stays",
        [
            Life(
                [
                    *begin("A"), *step(1), "step{", "A.before_save@2", "save@2 fails DiskFull",
                    "caught SaveError", *saved_step(3, "A"), *saved_step(4, "A"), *step(5), *save(5, "A"),
                    *end(5, "A"),
                ],
                [0, 3, 4, 5],
            )
        ],
    ),
    "save-unavailable": Deviation(
        NO_PREEMPTION,
        [
            Life(
                [
                    *begin("A"), *step(1), "step{", "A.before_save@2", "save@2 fails Unavailable",
                    *end(2, "A", left="left raising SaveError"),
                ],
                [0],
            )
        ],
    ),
    "body-RuntimeError": Deviation(
        ERROR_ENDS,
        [
            Life(
                [
                    *begin("A"), *step(1), *saved_step(2, "A"), *step(3), "body raises RuntimeError",
                    *end(3, "A", left="left raising RuntimeError"),
                ],
                [0, 2],
            )
        ],
    ),
    **{
        f"body-{name}": Deviation(
            "no exception class means the end of the input: there is no final save, and it goes on",
            [
                Life(
                    [
                        *begin("A"), *step(1), *saved_step(2, "A"), *step(3), f"body raises {name}",
                        *end(3, "A", left=f"left raising {name}"),
                    ],
                    [0, 2],
                )
            ],
        )
        for name in ("StopIteration", "OutOfRange")
    },
    "recover": Deviation(
        NO_PREEMPTION,
        [
            Life(
                [
                    "A.begin", "Q.begin", "Q.session_created", *save(0, "A"), "entered",
                    *step(1, "Q.before_step", "Q.after_step"),
                    *step(2, "Q.before_step", *save(2, "A"), "Q.after_step"),
                    *step(3, "Q.before_step", "Q.after_step"),
                    "step{", "Q.before_step", "Q raises Aborted", "A.end@3", "Q.end", "left raising Aborted",
                ],
                [0, 2],
            )
        ],
    ),
    "recover-no-restore-dir": Deviation(
        NO_PREEMPTION,
        [
            Life(
                [
                    *begin("A"), *step(1), *saved_step(2, "A"), *step(3), "step{", "Q raises Aborted",
                    *end(3, "A", left="left raising Aborted"),
                ],
                [0, 2],
            )
        ],
    ),
    "thread-error": Deviation(
        "there is no coordinator: a thread asks for the stop, and its error is raised by whoever owns it",
        [
            Life(
                [
                    *begin("A"), *step(1), "thread error RuntimeError", "should_stop=True", *save(1, "A"),
                    *end(1, "A"),
                ],
                [0, 1],
            )
        ],
    ),
    "hook-before-end-raises": Deviation(
        "the final save comes before anybody's end, and end reaches everyone",
        [
            Life(
                [
                    *begin("A"), *step(1), *save(1, "A"), "P raises RuntimeError",
                    *end(1, "A", left="left raising RuntimeError"),
                ],
                [0, 1],
            )
        ],
    ),
    "later-hook-create-raises": Deviation(
        "the save of the entry comes after every hook has seen the session; " + ERROR_ENDS,
        [Life(["A.begin", "U raises RuntimeError", *end(0, "A", left="left raising RuntimeError")], [])],
    ),
    "close-inside": Deviation(
        "closing twice is harmless",
        [Life([*begin("A"), *step(1), *save(1, "A"), "A.end@1", "closed", "left"], [0, 1])],
    ),
    "secs-slow-listener": Deviation(
        "the interval leaves out the time that the boundary itself took",
        [
            Life(
                [
                    *begin("A"),
                    *(line for n in range(1, 10) for line in (f"clock={n}", *step(n))),
                    "clock=10", *saved_step(10, "A"),
                    "clock=26", *step(11), "clock=27", *step(12), "clock=28", *step(13),
                    *save(13, "A"), *end(13, "A"),
                ],
                [0, 10, 13],
            )
        ],
    ),
    "secs-clock-back": Deviation(
        "intervals use a monotonic clock: setting the wall clock back delays nothing",
        [
            Life(
                [
                    *begin("A"), "clock=-500", *step(1), "clock=-490", *saved_step(2, "A"),
                    "clock=-480", *saved_step(3, "A"), "clock=-470", *saved_step(4, "A"),
                    "clock=10", *saved_step(5, "A"), *end(5, "A"),
                ],
                [0, 2, 3, 4, 5],
            )
        ],
    ),
    "keep-shrink": Deviation(
        "retention trims all excess at once; the checkpoint that was restored from stays",
        [
            None,
            Life(
                [
                    "A.begin", "restore@4", *save(4, "A"), "entered", *saved_step(5, "A"),
                    *saved_step(6, "A"), *saved_step(7, "A"), *end(7, "A"),
                ],
                [4, 6, 7],
            ),
        ],
    ),
}  # fmt: skip
