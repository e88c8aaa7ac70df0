"""Resume: what comes back, where it lands, and which checkpoint wins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from async_ckpt import (
    CheckpointSaverHook,
    DamagedCheckpointError,
    FormatVersionError,
    MonitoredTrainingSession,
    NoCheckpointError,
    RestoreError,
    Saver,
    StructureMismatchError,
    UnsupportedLeafError,
)
from async_ckpt.events import CheckpointRejected, CheckpointRestored, SessionBegan
from async_ckpt.testing import RecordingListener
from tests.session.lives import Log, flip_byte, listed, live, new_state, newer_format, tensor_file, train

pytestmark = pytest.mark.asyncio


def hook_on(directory: Path, state: Any, **more: Any) -> CheckpointSaverHook:
    return CheckpointSaverHook(directory, state, save_steps=more.pop("save_steps", 1), **more)


async def resumed(directory: Path, state: Any, **more: Any) -> MonitoredTrainingSession:
    """Enter and leave at once; nothing is due, so nothing is saved."""
    async with MonitoredTrainingSession(
        hooks=[hook_on(directory, state, **more)], final_save="never"
    ) as session:
        pass
    return session


async def test_a_fresh_directory_starts_at_step_zero_with_nothing_restored(tmp_path: Path) -> None:
    session = await resumed(tmp_path, new_state(), initial_save="never")
    assert session.global_step == 0
    assert session.restored is None
    assert await listed(tmp_path) == []


async def test_the_newest_checkpoint_sets_the_step_and_fills_the_very_same_arrays(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    state = new_state(-7.0)
    array, was = state["w"], id(state["w"])
    session = await resumed(tmp_path, state)
    assert session.global_step == 3
    assert state["w"] is array
    assert id(state["w"]) == was
    np.testing.assert_array_equal(array, np.full(4, 3.0))
    assert state["n"] == 3
    assert session.restored is not None
    assert session.restored.step == 3
    assert session.restored.state is state


async def test_nested_containers_and_a_generator_come_back_where_they_stand(tmp_path: Path) -> None:
    def tree(seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        return {
            "a": {"b": [rng.normal(size=3), {"c": rng.normal(size=(2, 2))}]},
            "rng": rng,
            "name": f"s{seed}",
        }

    saved = tree(1)
    await live_with(tmp_path, saved)
    follows = saved["rng"].normal(size=5)
    here = tree(2)
    inner, rng = here["a"]["b"], here["rng"]
    await resumed(tmp_path, here)
    assert here["a"]["b"] is inner
    assert here["rng"] is rng
    np.testing.assert_array_equal(inner[0], saved["a"]["b"][0])
    np.testing.assert_array_equal(inner[1]["c"], saved["a"]["b"][1]["c"])
    assert here["name"] == "s1"
    np.testing.assert_array_equal(rng.normal(size=5), follows)


async def live_with(directory: Path, state: Any, steps: int = 1) -> None:
    async with MonitoredTrainingSession(hooks=[hook_on(directory, state)]) as session:
        for _ in range(steps):
            await session.advance()


class Counter:
    """An object with ``state_dict()`` that keeps its own array."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = np.full(2, value)
        self.loads = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "kind": "counter"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loads += 1
        self.value[:] = state["value"]


@pytest.mark.parametrize(
    "wrap", [lambda c: c, lambda c: {"one": c, "two": np.arange(3.0)}], ids=["object", "mapping"]
)
async def test_an_object_with_state_dict_is_loaded_once(tmp_path: Path, wrap: Any) -> None:
    await live_with(tmp_path, wrap(Counter(5.0)))
    counter = Counter()
    await resumed(tmp_path, wrap(counter))
    np.testing.assert_array_equal(counter.value, [5.0, 5.0])
    assert counter.loads == 1


async def test_a_torch_module_and_its_optimizer_come_back_in_the_same_parameters(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def build(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 2)
        return {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=0.1)}

    def step(state: dict[str, Any]) -> None:
        state["optimizer"].zero_grad()
        state["model"](torch.ones(4, 3)).square().sum().backward()
        state["optimizer"].step()

    saved = build(1)
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, saved)]) as session:
        await session.run(step, saved)
        await session.run(step, saved)
    here = build(2)
    weight = here["model"].weight
    await resumed(tmp_path, here)
    assert here["model"].weight is weight
    assert torch.equal(weight, saved["model"].weight)
    for state in (saved, here):
        step(state)
    assert torch.equal(weight, saved["model"].weight), "the optimizer's moments have to be back as well"


async def test_a_run_cut_in_two_ends_with_the_bits_of_a_run_in_one_piece(tmp_path: Path) -> None:
    def noisy(seed: int) -> dict[str, Any]:
        return {"w": np.zeros(8), "rng": np.random.default_rng(seed)}

    async def run(directory: Path, state: dict[str, Any], steps: int) -> None:
        def step() -> None:
            state["w"] += state["rng"].normal(size=8)

        async with MonitoredTrainingSession(hooks=[hook_on(directory, state, save_steps=2)]) as session:
            for _ in range(steps):
                await session.run(step)

    whole, cut = noisy(3), noisy(3)
    await run(tmp_path / "whole", whole, 7)
    await run(tmp_path / "cut", cut, 3)
    cut = noisy(99)
    await run(tmp_path / "cut", cut, 4)
    assert whole["w"].tobytes() == cut["w"].tobytes()


# -- damaged ones --------------------------------------------------------------------------------


async def test_a_damaged_newer_one_is_passed_over_with_event_and_warning(tmp_path: Path) -> None:
    await live(tmp_path, 3)
    flip_byte(tensor_file(tmp_path, 3))
    state, log = new_state(), Log()
    session = MonitoredTrainingSession(hooks=[hook_on(tmp_path, state)], final_save="never")
    session.subscribe(log)
    with pytest.warns(RuntimeWarning, match="step 3 was passed over"):
        await session.__aenter__()
    try:
        assert session.global_step == 2
        np.testing.assert_array_equal(state["w"], np.full(4, 2.0))
        assert state["n"] == 2
    finally:
        await session.aclose()
    (rejected,) = log.of(CheckpointRejected)
    assert rejected.step == 3
    assert "step-00000003" in rejected.path
    assert "bytes" in rejected.reason
    (restored,) = log.of(CheckpointRestored)
    assert (restored.step, Path(restored.path).name) == (2, "step-00000002")
    assert [event.step for event in log.of(SessionBegan)] == [2]


async def test_several_damaged_newer_ones_are_each_named(tmp_path: Path) -> None:
    await live(tmp_path, 4)
    flip_byte(tmp_path / "step-00000004" / "manifest.json", 100)
    (tmp_path / "step-00000003" / "manifest.json").unlink()
    state = new_state()
    with pytest.warns(RuntimeWarning) as caught:
        session = await resumed(tmp_path, state)
    assert session.global_step == 2
    assert ["step 4" in str(w.message) for w in caught] == [True, False]
    assert ["step 3" in str(w.message) for w in caught] == [False, True]


async def test_files_without_one_valid_checkpoint_are_an_error_that_names_each(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    steps = await listed(tmp_path)
    for step in steps:
        flip_byte(tensor_file(tmp_path, step))
    before = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("step-"))
    with pytest.raises(DamagedCheckpointError) as caught:
        await resumed(tmp_path, new_state())
    assert all(f"step {step}" in str(caught.value) for step in steps)
    assert caught.value.path == str(tmp_path)
    assert caught.value.step == 2
    assert before == sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("step-"))


async def test_after_a_failed_entry_listeners_that_began_get_their_end(tmp_path: Path) -> None:
    await live(tmp_path, 1, initial_save="never")
    flip_byte(tensor_file(tmp_path, 1))
    listener = RecordingListener("l")
    with pytest.raises(DamagedCheckpointError):
        await resumed(tmp_path, new_state(), listeners=[listener])
    assert listener.log == [("l", "begin", None), ("l", "end", 0)]


async def test_a_checkpoint_that_does_not_fit_the_state_is_an_error_and_changes_nothing(
    tmp_path: Path,
) -> None:
    await live(tmp_path, 2)
    state = {"w": np.zeros(5), "n": 0}
    with pytest.raises(StructureMismatchError) as caught:
        await resumed(tmp_path, state)
    assert "w" in str(caught.value)
    np.testing.assert_array_equal(state["w"], np.zeros(5))
    assert state["n"] == 0
    assert await listed(tmp_path) == [0, 1, 2]


# -- several saver hooks ---------------------------------------------------------------------------


async def two_lives(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories: a has steps 2, 4, 6 and b has steps 3, 6."""
    a, b = tmp_path / "a", tmp_path / "b"
    one, two = new_state(), new_state()
    hooks = [
        hook_on(a, one, save_steps=2, initial_save="never"),
        hook_on(b, two, save_steps=3, initial_save="never"),
    ]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        for _ in range(6):
            one["w"] += 1
            two["w"] += 10
            await session.advance()
    return a, b


async def test_each_hook_that_has_the_newest_step_restores_it(tmp_path: Path) -> None:
    a, b = await two_lives(tmp_path)
    one, two = new_state(), new_state()
    async with MonitoredTrainingSession(
        hooks=[hook_on(a, one), hook_on(b, two)], final_save="never"
    ) as session:
        assert session.global_step == 6
        np.testing.assert_array_equal(one["w"], np.full(4, 6.0))
        np.testing.assert_array_equal(two["w"], np.full(4, 60.0))


async def test_a_hook_with_checkpoints_but_not_the_newest_refuses_to_train_on(tmp_path: Path) -> None:
    a, b = await two_lives(tmp_path)
    shutil.rmtree(b / "step-00000006")
    hooks = [hook_on(a, new_state()), hook_on(b, new_state())]
    with pytest.raises(RestoreError) as caught:
        async with MonitoredTrainingSession(hooks=hooks):
            pytest.fail("not reached")
    assert str(b) in str(caught.value)
    assert "restore=None" in str(caught.value)
    assert caught.value.step == 6
    assert await listed(b) == [3]


async def test_the_newest_that_is_valid_for_one_hook_and_damaged_for_another_is_refused(
    tmp_path: Path,
) -> None:
    a, b = await two_lives(tmp_path)
    flip_byte(tensor_file(b, 6))
    hooks = [hook_on(a, new_state()), hook_on(b, new_state())]
    with pytest.raises(RestoreError) as caught:
        async with MonitoredTrainingSession(hooks=hooks):
            pytest.fail("not reached")
    assert str(b) in str(caught.value)


async def test_a_hook_that_shares_the_state_object_may_lack_the_step(tmp_path: Path) -> None:
    a, b = await two_lives(tmp_path)
    shutil.rmtree(b / "step-00000006")
    state = new_state()
    hooks = [hook_on(b, state), hook_on(a, state)]
    async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
        assert session.global_step == 6
        np.testing.assert_array_equal(state["w"], np.full(4, 6.0))


async def test_a_hook_with_restore_none_starts_its_state_afresh(tmp_path: Path) -> None:
    a, b = await two_lives(tmp_path)
    shutil.rmtree(b / "step-00000006")
    one, two = new_state(), new_state(0.5)
    hooks = [hook_on(a, one), hook_on(b, two, restore=None)]
    async with MonitoredTrainingSession(hooks=hooks, final_save="never") as session:
        assert session.global_step == 6
        np.testing.assert_array_equal(two["w"], np.full(4, 0.5))


async def test_a_hook_without_any_checkpoint_joins_at_the_step_of_the_others(tmp_path: Path) -> None:
    a, _ = await two_lives(tmp_path)
    hooks = [hook_on(tmp_path / "new", new_state()), hook_on(a, new_state())]
    async with MonitoredTrainingSession(hooks=hooks) as session:
        assert session.global_step == 6
    assert await listed(tmp_path / "new") == [6], "the final save: its last step was not durable"


async def test_a_restored_checkpoint_is_not_written_again(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    inode = (tmp_path / "step-00000002" / "manifest.json").stat().st_ino
    listener = RecordingListener("l")
    state = new_state()
    async with MonitoredTrainingSession(hooks=[hook_on(tmp_path, state, listeners=[listener])]):
        pass
    assert listener.log == [("l", "begin", None), ("l", "end", 2)]
    assert (tmp_path / "step-00000002" / "manifest.json").stat().st_ino == inode


# -- restore= --------------------------------------------------------------------------------------


async def test_restore_takes_the_step_that_was_named(tmp_path: Path) -> None:
    await live(tmp_path, 4)
    state = new_state()
    session = await resumed(tmp_path, state, restore=2)
    assert session.global_step == 2
    np.testing.assert_array_equal(state["w"], np.full(4, 2.0))


async def test_a_named_step_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    with pytest.raises(NoCheckpointError) as caught:
        await resumed(tmp_path, new_state(), restore=7)
    assert caught.value.step == 7
    assert str(tmp_path) in str(caught.value)


async def test_a_named_step_in_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoCheckpointError):
        await resumed(tmp_path, new_state(), restore=7)


async def test_a_named_step_that_is_damaged_is_an_error_and_no_fallback(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    flip_byte(tensor_file(tmp_path, 2))
    with pytest.raises(DamagedCheckpointError) as caught:
        await resumed(tmp_path, new_state(), restore=2)
    assert caught.value.step == 2


async def test_two_hooks_that_name_different_steps_are_refused(tmp_path: Path) -> None:
    a, b = await two_lives(tmp_path)
    hooks = [hook_on(a, new_state(), restore=4), hook_on(b, new_state(), restore=3)]
    with pytest.raises(ValueError, match="different steps"):
        async with MonitoredTrainingSession(hooks=hooks):
            pytest.fail("not reached")


async def test_restore_none_reads_nothing_and_starts_at_zero(tmp_path: Path) -> None:
    await live(tmp_path, 2)
    state = new_state(0.25)
    session = await resumed(tmp_path, state, restore=None, initial_save="never")
    assert session.global_step == 0
    np.testing.assert_array_equal(state["w"], np.full(4, 0.25))


# -- newer formats, checkpoints that vanish ----------------------------------------------------------


async def test_only_checkpoints_of_a_newer_format_say_so(tmp_path: Path) -> None:
    await live(tmp_path, 1, initial_save="never")
    newer_format(tmp_path, 1)
    with pytest.raises(FormatVersionError) as caught:
        await resumed(tmp_path, new_state())
    assert "step 1" in str(caught.value)
    assert caught.value.path == str(tmp_path)


async def test_one_that_is_deleted_while_the_session_looks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live(tmp_path, 3)
    hook = hook_on(tmp_path, new_state())
    steps = hook.saver._store.steps

    async def stale() -> list[int]:
        found = await steps()
        shutil.rmtree(tmp_path / "step-00000003", ignore_errors=True)
        return found

    monkeypatch.setattr(hook.saver._store, "steps", stale)
    async with MonitoredTrainingSession(hooks=[hook], final_save="never") as session:
        assert session.global_step == 2


# -- states that cannot be filled --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": (np.zeros(2), 3)}, "a/1"),
        ({"deep": [{"pair": (1.5, np.zeros(1))}]}, "deep/0/pair/0"),
        (3, ""),
    ],
    ids=["tuple", "nested tuple", "number"],
)
async def test_a_state_that_cannot_be_filled_is_refused_before_any_callback(
    tmp_path: Path, state: Any, path: str
) -> None:
    listener = RecordingListener("l")
    with pytest.raises(UnsupportedLeafError) as caught:
        await resumed(tmp_path, state, listeners=[listener])
    assert caught.value.path == path
    assert "restored in place" in str(caught.value)
    assert listener.log == []
    assert await listed(tmp_path) == []


async def test_what_begin_puts_into_the_state_is_looked_at_too(tmp_path: Path) -> None:
    state: dict[str, Any] = new_state()

    class Builds:
        async def begin(self) -> None:
            state["late"] = (1, 2)

    with pytest.raises(UnsupportedLeafError) as caught:
        await resumed(tmp_path, state, listeners=[Builds()])
    assert caught.value.path == "late/0"


async def test_arrays_in_a_tuple_are_filled_where_they_stand(tmp_path: Path) -> None:
    saved = {"pair": (np.ones(2), np.full(3, 2.0))}
    await live_with(tmp_path, saved)
    here = {"pair": (np.zeros(2), np.zeros(3))}
    await resumed(tmp_path, here)
    np.testing.assert_array_equal(here["pair"][1], np.full(3, 2.0))


async def test_a_saver_of_ones_own_is_used_and_left_open(tmp_path: Path) -> None:
    async with Saver(tmp_path) as saver:
        state = new_state()
        async with MonitoredTrainingSession(
            hooks=[CheckpointSaverHook(saver, state, save_steps=1)]
        ) as session:
            await train(session, state, 1)
        assert [c.step for c in await saver.checkpoints()] == [0, 1]
        await saver.save(state, 9)
    assert await listed(tmp_path) == [0, 1, 9]
