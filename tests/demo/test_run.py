"""The demo as its users meet it: processes that are stopped, killed, resumed and refused."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")

from async_ckpt import Saver
from tests.demo.lives import Life, run, small, tensors

QUICK = {"hidden": 64, "rate": 2e-3, "stop_at": 0.97}


@pytest.mark.asyncio
async def test_300_steps_are_the_same_bytes_as_150_a_hard_kill_and_150_more(tmp_path: Path) -> None:
    words = small(steps=300, save_steps=150)
    run(tmp_path / "whole", *words)

    first = Life(tmp_path / "halves", *words)
    first.wait_for("saved step=150 ")
    first.kill()
    second = run(tmp_path / "halves", *words)

    assert second[0].startswith(("resumed from step 150 ", "resumed from step 300 "))
    whole, halves = tensors(tmp_path / "whole", 300), tensors(tmp_path / "halves", 300)
    assert whole.keys() == halves.keys()
    assert len(whole) == 3
    for name, content in whole.items():
        assert content == halves[name], name
    async with Saver(tmp_path / "whole") as one, Saver(tmp_path / "halves") as other:
        ends = [(await saver.restore(300)).state for saver in (one, other)]
    assert ends[0]["rng"].bit_generator.state == ends[1]["rng"].bit_generator.state
    assert ends[0]["data"]["offset"] == ends[1]["data"]["offset"]
    assert ends[0]["optimizer"]["count"] == ends[1]["optimizer"]["count"] == 300


def test_it_stops_by_vote_at_97_percent_and_says_so_when_started_again(tmp_path: Path) -> None:
    lines = run(tmp_path, *small(**QUICK))
    assert lines[0].startswith("started at step 0 ")
    accuracies = [
        float(found[1]) for line in lines if (found := re.match(r"saved .* accuracy=([0-9.]+)", line))
    ]
    votes = [line for line in lines if line.startswith("vote ")]
    assert accuracies[0] < 0.5
    assert max(accuracies) >= 0.97
    assert max(accuracies[:-2]) < 0.97, "it went on after the goal"
    assert "reason=accuracy 97" in votes[0]
    assert any(line.startswith("stopped at step ") and "accuracy 97" in line for line in lines)

    again = run(tmp_path, *small(**QUICK))
    assert again[0].startswith("resumed from step ")
    assert again[1].startswith("goal reached already: accuracy 97")
    assert "--fresh" in again[1]
    assert not [line for line in again if line.startswith("saved ")]

    higher = run(tmp_path, *small(**{**QUICK, "stop_at": 0.975}))
    assert higher[0] == again[0]
    assert [line for line in higher if line.startswith("saved ")]

    fresh = run(tmp_path, *small(**QUICK, steps=40), "--fresh")
    assert fresh[0].startswith("started at step 0 ")
    assert [line for line in fresh if line.startswith("set aside steps=")]
    assert fresh[-2].startswith("stopped at step 40: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_once_more_and_the_next_run_goes_on_there(
    tmp_path: Path, number: signal.Signals
) -> None:
    life = Life(tmp_path, *small(save_steps=1000, step_ms=1, steps=100_000))
    life.wait_for("saved step=0 ")
    life.signal(number)
    life.wait_for(number.name)
    assert life.finish() == 0
    step = max(life.acknowledged)
    assert f"stopped at step {step}: " in "\n".join(life.lines)
    assert life.lines[-1].startswith("start it again")

    again = run(tmp_path, *small(save_steps=1000, steps=step + 5))
    assert again[0].startswith(f"resumed from step {step} ")
    assert f"saved step={step + 5} " in "\n".join(again)


def test_a_second_signal_stops_it_at_once_and_loses_nothing(tmp_path: Path) -> None:
    # A step that takes a minute: the first signal has to wait for its end, the second has not.
    life = Life(tmp_path, *small(save_steps=1000, step_ms=60_000))
    life.wait_for("saved step=0 ")
    life.signal(signal.SIGINT)
    life.wait_for("SIGINT")
    life.signal(signal.SIGINT)
    assert life.finish() == 130
    assert life.lines[-1].startswith("async-ckpt: interrupted")
    again = run(tmp_path, *small(save_steps=1000, steps=3))
    assert again[0].startswith("resumed from step ")


def test_it_saves_and_ends_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    life = Life(tmp_path, *small(save_steps=10))
    life.wait_for("saved step=0 ")
    assert life.leave() == 0
    newest = max(int(path.name[5:]) for path in tmp_path.glob("step-*"))
    again = run(tmp_path, *small(steps=newest + 1))
    assert again[0].startswith(f"resumed from step {newest} ")


def test_it_keeps_the_last_three_and_the_best_two(tmp_path: Path) -> None:
    lines = run(tmp_path, *small(steps=200, save_steps=10))
    measured = {
        int(found[1]): float(found[2])
        for line in lines
        if (found := re.match(r"saved step=(\d+) .*accuracy=([0-9.]+)", line))
    }
    best = sorted(measured, key=lambda step: (measured[step], step))[-2:]
    on_disk = {int(path.name[5:]) for path in tmp_path.glob("step-*")}
    assert on_disk == {180, 190, 200, *best}
    deleted = [int(found[1]) for line in lines if (found := re.match(r"deleted step=(\d+)", line))]
    assert set(measured) - on_disk == set(deleted)


def test_a_finished_run_says_so_when_started_again(tmp_path: Path) -> None:
    words = small(steps=20, save_steps=10)
    run(tmp_path, *words)
    again = run(tmp_path, *words)
    assert again[0].startswith("resumed from step 20 ")
    assert again[1].startswith("step 20 of 20 done already: raise --steps")
    assert not [line for line in again if line.startswith("saved ")]


def test_a_checkpoint_holds_all_that_a_run_depends_on(tmp_path: Path) -> None:
    run(tmp_path, *small(steps=10, save_steps=10))
    safetensors = pytest.importorskip("safetensors.numpy")
    names = {
        name: set(safetensors.load_file(path))
        for path in (tmp_path / "step-00000010").glob("*.safetensors")
        for name in [path.name.split("-")[0]]
    }
    assert set(names) == {"model", "optimizer", "data"}
    assert len(names["model"]) == 6
    assert len(names["optimizer"]) == 12
