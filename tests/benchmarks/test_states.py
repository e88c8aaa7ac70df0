"""The states are what they are said to be."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from benchmarks.states import build, gpt2, spec


def test_gpt2_small_has_the_real_number_of_parameters() -> None:
    shapes = gpt2()
    assert len(shapes) == 148
    assert sum(math.prod(shape) for shape in shapes.values()) == 124_439_808
    assert spec("gpt2").tensors == 3 * 148
    assert spec("gpt2").nbytes == 1_493_277_696


@pytest.mark.parametrize(
    ("name", "tensors", "nbytes"),
    [
        ("many-20000", 20_000, 20_480_000),
        ("one-2147483648", 1, 2**31),
        ("size-4800000", 48, 4_800_000),
        ("frozen-1600000", 40, 1_600_000),
    ],
)
def test_a_name_tells_number_and_size(name: str, tensors: int, nbytes: int) -> None:
    assert (spec(name).tensors, spec(name).nbytes) == (tensors, nbytes)


@pytest.mark.parametrize("name", ["", "gpt3", "few-1", "many-", "many-x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no state is called"):
        spec(name)


def test_nine_tenths_of_a_frozen_state_are_called_so() -> None:
    found = spec("frozen-1600000")
    frozen = [math.prod(shape) * 4 for group, _, shape in found.shapes if group.startswith("frozen")]
    assert sum(frozen) == 0.9 * found.nbytes


def test_arrays_have_their_shapes_are_the_same_every_time_and_share_no_memory() -> None:
    what = spec("gpt2-mini")
    once, again = build(what), build(what)
    rows = [array for names in once.values() for array in names.values()]
    assert sum(array.nbytes for array in rows) == what.nbytes
    for group, name, shape in what.shapes:
        assert once[group][name].shape == shape
        assert np.array_equal(once[group][name], again[group][name])
    assert not np.shares_memory(rows[0], rows[1])
    assert not np.array_equal(
        once["model"]["h.0.attn.c_attn.weight"], once["model"]["h.1.attn.c_attn.weight"]
    )
    assert all(array.base is None for array in rows)


def test_contents_do_not_compress_not_even_where_noise_repeats() -> None:
    (array,) = build(spec(f"one-{80 * 2**20}"))["model"].values()
    tail = array[-(2**18) :].tobytes()
    assert len(zlib.compress(tail, 1)) > 0.9 * len(tail)
    assert not np.array_equal(array[: 2**16], array[2**16 : 2**17])
