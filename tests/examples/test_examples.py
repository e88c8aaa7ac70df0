"""The examples do what they say, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(name: str, *words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


def test_minimal_stops_by_vote_and_a_second_run_starts_where_it_stopped(tmp_path: Path) -> None:
    lines = run("minimal.py", str(tmp_path))
    assert lines[0] == "starting at step 0"
    assert lines[1] == "checkpoint 0: error 1.000"
    stopped = re.match(r"stopped at step (\d+): .*StopWhenGood", lines[-1])
    assert stopped, lines[-1]
    again = run("minimal.py", str(tmp_path))
    assert again[0] == f"starting at step {stopped[1]}"


def test_early_stopping_ends_at_the_same_step_with_and_without_a_restart(tmp_path: Path) -> None:
    whole = run("early_stopping.py", str(tmp_path / "whole"))
    # In the middle of the waiting, so that a patience that began anew would show.
    halves = run("early_stopping.py", str(tmp_path / "halves"), "70")
    assert halves[-2].endswith("waited 2")
    assert halves[-1].startswith("stopped at step 70")
    more = run("early_stopping.py", str(tmp_path / "halves"))
    assert more[0] == "starting at step 70"
    assert more[-1] == whole[-1]
    assert "best " in whole[-1]
    checkpoints = [line for line in (*halves, *more) if line.startswith("checkpoint ")]
    assert checkpoints == [line for line in whole if line.startswith("checkpoint ")]


def test_overlap_writes_what_changed_and_shares_what_did_not(tmp_path: Path) -> None:
    lines = run("overlap.py", str(tmp_path))
    assert lines[0] == "starting at step 0"
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"checkpoint {step}" for step in range(0, 50, 10)]
    assert lines[-1].startswith("stopped at step 40")
    shared = {path.stat().st_ino for path in tmp_path.glob("step-*/frozen-*")}
    written = {path.stat().st_ino for path in tmp_path.glob("step-*/state-*")}
    assert (len(shared), len(written)) == (1, 5)
    assert run("overlap.py", str(tmp_path))[0] == "starting at step 40"


class Client:
    """Speaks to the service over a real socket, one connection for each request."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self._port = port

    def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


@contextmanager
def service(directory: Path, mebibytes: int) -> Iterator[Client]:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "async_service.py"), str(directory), "0", str(mebibytes)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.match(r"port (\d+), step \d+", process.stdout.readline())
            assert found
            yield Client(process, int(found[1]))
        finally:
            process.kill()


def test_the_service_answers_while_a_save_is_under_way(tmp_path: Path) -> None:
    with service(tmp_path, 64) as client, ThreadPoolExecutor(1) as elsewhere:
        saved = elsewhere.submit(client.ask, "POST", "/checkpoint")
        seen = []
        while not saved.done():
            code, status = client.ask("GET", "/")
            assert code == 200
            seen.append(status["saving"])
        code, checkpoint = saved.result()
        assert code == 200
        assert checkpoint["step"] in seen, "no answer came while the save was under way"
        assert checkpoint["bytes"] >= 64 << 20
        assert (Path(checkpoint["path"]) / "manifest.json").exists()

        assert client.ask("GET", "/nothing")[0] == 404
        assert client.ask("POST", "/stop") == (202, {"stopping": True})
        output, _ = client.process.communicate()
        assert client.process.returncode == 0
        stopped = re.search(r"stopped at step (\d+): asked to over HTTP", output)
        assert stopped
        assert (tmp_path / f"step-{int(stopped[1]):08d}" / "manifest.json").exists()


def test_the_service_saves_when_it_is_terminated(tmp_path: Path) -> None:
    with service(tmp_path, 1) as client:
        assert client.ask("POST", "/checkpoint")[0] == 200
        client.process.send_signal(signal.SIGTERM)
        output, _ = client.process.communicate()
        assert client.process.returncode == 0
    stopped = re.search(r"stopped at step (\d+)", output)
    assert stopped
    with service(tmp_path, 1) as again:
        assert again.ask("GET", "/")[1]["step"] >= int(stopped[1])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_can_be_read_at_a_glance(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 90
