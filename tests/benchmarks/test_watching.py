"""Children are watched from outside, and whatever happens to them is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import driver
from benchmarks.measure import Ticker, binned, clear, worst
from benchmarks.records import Job
from benchmarks.watch import Watch, busy_seconds, descendants, peak_between, processor_seconds

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def job(system: str, **more: object) -> Job:
    fields: dict[str, object] = {"states": ("size-480000",), "repeats": 2} | more
    return Job(experiment="save", system=system, **fields)  # type: ignore[arg-type]


def test_a_job_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    run = driver.perform(job("safetensors"), tmp_path)
    assert run.error is None
    assert [save.state for save in run.saves] == ["size-480000"] * 2
    assert all(save.durable and save.stall and save.durable > save.stall for save in run.saves)
    assert run.seconds > 0
    assert run.foreign is not None
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    assert driver.perform(job("nobody"), tmp_path).error == "KeyError: 'nobody'"


def test_a_job_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    run = driver.perform(job("safetensors", limit_secs=0.0), tmp_path)
    assert run.error is not None
    assert "still running after 0 s" in run.error


def test_an_option_that_is_not_there_yet_is_told_and_nothing_else(tmp_path: Path) -> None:
    from benchmarks.systems.base import UnavailableError
    from benchmarks.systems.ours import make_saver

    with pytest.raises(UnavailableError, match="Saver does not take no_such_option="):
        make_saver(tmp_path, no_such_option=1)


def test_descendants_and_their_memory_are_seen() -> None:
    code = "import sys; kept = b'x' * 50_000_000; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        watch = Watch(child.pid)
        watch.sample()
        assert watch.samples[0][1] > 50_000_000
        assert watch.used > 0
        child.communicate()
    assert processor_seconds(child.pid) is None
    watch.sample()


def test_the_peak_is_the_largest_sample_between_the_marks() -> None:
    samples = [(0.0, 5), (1.0, 10), (2.0, 30), (3.0, 20), (4.0, 99)]
    assert peak_between(samples, 1.5, 3.5) == (10, 30)
    assert peak_between(samples, -1.0, 3.0) is None
    assert peak_between(samples, 5.0, 6.0) is None


def test_the_machine_was_busy_at_least_as_long_as_we_were() -> None:
    assert busy_seconds() >= (processor_seconds(os.getpid()) or 0.0)


def test_lateness_is_binned_by_its_worst() -> None:
    ticks = [(10.001, 0.0), (10.004, 0.002), (10.012, 0.001)]
    assert binned(ticks, 10.0) == [(0.0, 0.002), (0.01, 0.001)]
    assert worst(ticks)[0] == 0.002


def test_a_tick_that_straddles_the_end_counts() -> None:
    ticker = Ticker()
    ticker._ticks = [(1.0, 0.0), (2.0, 0.5), (9.0, 6.0), (9.5, 0.1)]
    assert ticker.between(1.5, 3.5) == [(2.0, 0.5), (9.0, 6.0)]
    assert ticker.between(20.0, 21.0) == [(21.0, 0.0)]


def test_clearing_leaves_hidden_files_alone(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "data").touch()
    (tmp_path / "2.bin").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
