"""Small states of listeners, metrics and metadata survive JSON, whoever wrote the JSON library."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.errors import DamagedCheckpointError, UnsupportedLeafError
from async_ckpt.state.encode import INLINE_LIMIT
from async_ckpt.state.plain import decode_plain, encode_plain
from async_ckpt.storage import strictjson
from tests.state.roundtrip import exact
from tests.state.test_tree import trees


@given(trees)
def test_a_plain_state_comes_back_bit_for_bit_through_any_json(tree: Any) -> None:
    encoded = encode_plain(tree)
    strictjson.check(encoded)
    assert exact(decode_plain(json.loads(json.dumps(encoded, allow_nan=False)))) == exact(tree)
    assert exact(decode_plain(msgspec.json.decode(msgspec.json.encode(encoded)))) == exact(tree)


def test_arrays_and_generators_stand_in_the_json_itself() -> None:
    state: dict[Any, Any] = {
        "best": np.arange(6.0).reshape(2, 3),
        "rng": np.random.default_rng(1),
        "text": "x" * 5000,
    }
    back = decode_plain(encode_plain(state))
    assert exact(back["best"]) == exact(state["best"])
    assert back["best"].flags.writeable
    assert back["rng"].random() == state["rng"].random()
    assert back["text"] == state["text"]


def test_what_is_simple_reads_simply() -> None:
    assert encode_plain({"best": 3, "name": "a", "done": False, "why": None}) == [
        "dict",
        "best",
        3,
        "name",
        "a",
        "done",
        False,
        "why",
        None,
    ]
    assert encode_plain([0.1, -5, 2**70]) == ["list", ["float", "0.1"], ["int", "-5"], ["int", hex(2**70)]]


def test_a_large_array_is_refused_with_its_place() -> None:
    with pytest.raises(UnsupportedLeafError, match="belongs into the training state") as raised:
        encode_plain({"ema": {"w": np.zeros(INLINE_LIMIT + 1, np.uint8)}})
    assert raised.value.path == "ema/w"


def test_an_unsupported_value_is_named() -> None:
    with pytest.raises(UnsupportedLeafError) as raised:
        encode_plain({"a": [print]})
    assert raised.value.path == "a/0"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["dict", "list", "int", "float", "inline", "rng", "array", "key", "numpy", "stateful", "F32"]
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)
TAGS = [
    "dict",
    "odict",
    "list",
    "tuple",
    "namedtuple",
    "dataclass",
    "node",
    "stateful",
    "array",
    "inline",
    "rng",
    "int",
    "float",
    "complex",
    "str",
    "bytes",
    "bytearray",
    "numpy",
    "key",
]


@given(
    st.one_of(
        json_values,
        st.tuples(st.sampled_from(TAGS), st.lists(json_values, max_size=5)).map(lambda t: [t[0], *t[1]]),
    )
)
def test_any_json_either_decodes_or_is_called_damaged(value: Any) -> None:
    with contextlib.suppress(DamagedCheckpointError):
        decode_plain(value)


MALFORMED = {
    "no tag": [],
    "a number as tag": [1],
    "an unknown tag": ["pickle", "x"],
    "an object": {"a": 1},
    "a float": 1.5,
    "a negative number": -1,
    "a large number": 2**53,
    "a leaf": ["array", 0, "numpy"],
    "an int of other digits": ["int", "\uff11"],
    "an int with a blank": ["int", " 1"],
    "an int with an underscore": ["int", "1_0"],
    "an int that is long": ["int", "1" * 5000],
    "an int that is a number": ["int", 5],
    "a float with an underscore": ["float", "1_0.0"],
    "a float that overflows": ["float", "1e999"],
    "a float by name": ["float", "nan"],
    "a float in other words": ["float", "0.10"],
    "finite bits": ["float", "x3ff0000000000000"],
    "bytes that are no base64": ["bytes", "?"],
    "bytes that are no text": ["bytes", 1],
    "a str that is no UTF-8": ["str", "/w=="],
    "a scalar of no dtype": ["numpy", "F99", "00"],
    "a scalar too short": ["numpy", "F32", "00"],
    "a scalar of other digits": ["numpy", "U8", "\uff11\uff11"],
    "a key and no value": ["dict", "a"],
    "equal keys": ["dict", "a", 1, "a", 2],
    "keys that are equal in Python": ["dict", 1, 1, True, 2],
    "a list as key": ["dict", ["list"], 1],
    "a bytearray as key": ["dict", ["bytearray", ""], 1],
    "a numpy key": ["dict", ["numpy", "U8", "00"], 1],
    "a key that is deep": [
        "dict",
        ["key", ["key", ["key", ["key", ["key", ["key", ["key", ["key", ["key"]]]]]]]]],
        1,
    ],
    "a field that is no text": ["dataclass", "A", 1, 1],
    "a type that is no text": ["stateful", 1, 1],
    "two children of one": ["stateful", "A", 1, 2],
    "an array too short": ["inline", "F32", [2], "numpy", "AAAA"],
    "an array that is huge": ["inline", "F32", [2**53, 2**53], "numpy", ""],
    "an array that wraps to nothing": ["inline", "F32", [2**62, 4], "numpy", ""],
    "an empty array that is huge": ["inline", "F32", [0, *[2**53] * 3], "numpy", ""],
    "an array of many dimensions": ["inline", "F32", [1] * 65, "numpy", "AAAAAA=="],
    "an array of a negative length": ["inline", "F32", [-1], "numpy", ""],
    "an array of a true length": ["inline", "U8", [True], "numpy", "AA=="],
    "an array of no dtype": ["inline", "F99", [0], "numpy", ""],
    "an array of no kind": ["inline", "F32", [0], "os.system", ""],
    "floats as text": ["inline", "F32", [0], "str", ""],
    "text that is no UTF-8": ["inline", "U8", [1], "str", "/w=="],
    "a complex of three": ["inline", "F64", [3], "numpy:c128", "A" * 32],
    "a big-endian byte": ["inline", "U8", [0], "numpy:be", ""],
    "a key of floats": ["inline", "F32", [2], "jax:key:threefry2x32", "AAAAAAAAAAA="],
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_what_nobody_wrote_is_damaged(value: Any) -> None:
    for wrapped in (value, ["list", value]):
        with pytest.raises(DamagedCheckpointError, match="tree structure"):
            decode_plain(wrapped)


def test_a_bottomless_value_is_damaged() -> None:
    value: Any = 1
    for _ in range(300):
        value = ["list", value]
    with pytest.raises(DamagedCheckpointError, match="deep"):
        decode_plain(value)


def rng_state(kind: str, make: Any, **changes: Any) -> Any:
    """The JSON of a generator with some of its state replaced."""
    encoded: Any = encode_plain(make)
    tag, found, state = encoded
    assert (tag, found) == ("rng", kind)
    text = json.dumps(state)
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return ["rng", kind, json.loads(text)]


def state_of(generator: Any) -> Any:
    encoded: Any = encode_plain(generator)
    return encoded[2]


PCG = "Generator/PCG64"
MALFORMED_RNG = {
    "no kind": ["rng", 1, ["dict"]],
    "no state": ["rng", PCG, 5],
    "an empty state": ["rng", PCG, ["dict"]],
    "an unknown algorithm": ["rng", "Generator/Mine", ["dict"]],
    "an unknown class": ["rng", "Eval/PCG64", state_of(np.random.default_rng(1))],
    "no slash": ["rng", "PCG64", ["dict"]],
    "another algorithm's state": ["rng", PCG, state_of(np.random.RandomState(1))],
    "words missing": ["rng", "Random/MT19937", ["dict", "gauss", None]],
    "too few words": [
        "rng",
        "Random/MT19937",
        ["dict", "words", ["inline", "U32", [1], "numpy", "AAAAAA=="], "gauss", None],
    ],
    "a position past the end": rng_state(
        "RandomState/MT19937", np.random.RandomState(1), a=('"pos", 624', '"pos", 625')
    ),
    "a position that is negative": rng_state(
        "RandomState/MT19937", np.random.RandomState(1), a=('"pos", 624', '"pos", ["int", "-1"]')
    ),
    "a position that is true": rng_state(
        "RandomState/MT19937", np.random.RandomState(1), a=('"pos", 624', '"pos", true')
    ),
    "a buffer position past the end": rng_state(
        "BitGenerator/Philox", np.random.Philox(1), a=('"buffer_pos", 4', '"buffer_pos", 5')
    ),
}


@pytest.mark.parametrize("value", MALFORMED_RNG.values(), ids=MALFORMED_RNG)
def test_a_generator_nobody_saved_is_damaged(value: Any) -> None:
    with pytest.raises(DamagedCheckpointError, match="random generator"):
        decode_plain(value)
