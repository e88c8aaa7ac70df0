"""A manifest is read as it was written, or refused; nothing in between."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_ckpt.errors import CheckpointError, DamagedCheckpointError, FormatVersionError
from async_ckpt.storage import strictjson
from async_ckpt.storage.manifest import (
    FileEntry,
    Manifest,
    Report,
    TensorEntry,
    decode_manifest,
    decode_report,
    digest,
    encode_manifest,
    encode_report,
)

GOLDEN = Path(__file__).parent / "golden"
HEX = "0123456789abcdef" * 2


def small_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "step": 7,
        "attempt": "00ff",
        "created": 1700000000.25,
        "expects_report": True,
        "metrics": {"loss": -0.5},
        "metadata": {"who": "ä"},
        "files": (FileEntry(name="model.safetensors", bytes=4119, header_bytes=4096, header_digest=HEX),),
        "tensors": (
            TensorEntry(
                path="model/w", name="w", file=0, dtype="F32", shape=(2, 2), offset=4096, bytes=16,
                digest=HEX, kind="numpy",
            ),
            TensorEntry(
                path="model/b", name="b", file=0, dtype="U8", shape=(7,), offset=4112, bytes=7,
                digest=HEX, kind="torch",
            ),
            TensorEntry(
                path="model/e", name="e", file=0, dtype="BF16", shape=(0, 3), offset=4119, bytes=0,
                digest=HEX, kind="jax:key",
            ),
        ),
        "tree": ["dict", ["model", -3, 2**63]],
        "listeners": {"best": [None, True]},
    }  # fmt: skip
    return Manifest(**(fields | changes))


def small_report() -> Report:
    return Report(step=7, votes=[{"reason": "done"}], metrics={"accuracy": 0.97}, listeners={})


def sealed(body: bytes) -> bytes:
    return b'{"xxh3_128":"%s","body":%s}\n' % (digest(body).encode(), body)


def body_of(manifest: Manifest, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(manifest))
    body.update(changes)
    return body


def resealed(manifest: Manifest, **changes: Any) -> bytes:
    return sealed(msgspec.json.encode(body_of(manifest, **changes)))


def test_a_record_comes_back_as_it_was() -> None:
    assert decode_manifest(encode_manifest(small_manifest()), step=7) == small_manifest()
    assert decode_report(encode_report(small_report()), step=7) == small_report()


def test_the_file_is_json_for_anyone() -> None:
    record = json.loads(encode_manifest(small_manifest()))
    assert list(record) == ["xxh3_128", "body"]
    assert record["body"]["tensors"][0]["shape"] == [2, 2]


@pytest.mark.parametrize("name", ["manifest", "report"])
def test_the_bytes_of_the_format_never_change(name: str) -> None:
    golden = (GOLDEN / f"{name}.json").read_bytes()
    if name == "manifest":
        assert encode_manifest(small_manifest()) == golden
        assert decode_manifest(golden) == small_manifest()
    else:
        assert encode_report(small_report()) == golden
        assert decode_report(golden) == small_report()


@pytest.mark.parametrize("kind", ["manifest", "report"])
def test_every_flipped_bit_and_every_truncation_is_refused(kind: str) -> None:
    decode = decode_manifest if kind == "manifest" else decode_report
    whole = encode_manifest(small_manifest()) if kind == "manifest" else encode_report(small_report())
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            with pytest.raises(DamagedCheckpointError):
                decode(bytes(flipped))
        with pytest.raises(DamagedCheckpointError):
            decode(whole[:place])
    for longer in (whole + b"\n", whole + whole, b" " + whole, whole + b"\0"):
        with pytest.raises(DamagedCheckpointError):
            decode(longer)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_in_the_package_s_own_words(data: bytes) -> None:
    for hostile in (data, sealed(data)):
        with pytest.raises(DamagedCheckpointError):
            decode_manifest(hostile)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_spliced_body_with_a_right_digest_never_raises_a_stranger(data: st.DataObject) -> None:
    body = msgspec.json.encode(small_manifest())
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    filler = data.draw(st.sampled_from([b"", b"-1", b"1e400", b"NaN", b'"', b"[" * 50, b"9" * 5000, b"\xff"]))
    try:
        decode_manifest(sealed(body[:start] + filler + body[end:]))
    except CheckpointError:
        return


HOSTILE = {
    "duplicate key": b'{"version":1,"step":7,',
    "duplicate opaque key": b'"metrics":{"a":1,"a":2}',
    "NaN": b'"metrics":NaN',
    "infinity": b'"metrics":-Infinity',
    "1e400": b'"metrics":1e400',
    "5000 digits": b'"metrics":' + b"9" * 5000,
    "65 bits": b'"metrics":[18446744073709551616,{"a":1,"a":2}]',
    "65 bits in our spelling": b'"metrics":[18446744073709551616]',
    "64 bits below zero": b'"metrics":{"a":-9223372036854775809}',
    "fifty digits": b'"metrics":[0,' + b"2" * 50 + b"]",
    "lone surrogate": b'"metrics":"\\ud800"',
    "not UTF-8": b'"metrics":"\xff"',
    "full-width digit": '"metrics":\uff11'.encode(),
    "deep": b'"metrics":' + b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'"metrics":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "trailing comma": b'"metrics":[1,]',
    "comment": b'"metrics":1/*x*/',
    "leading zero": b'"metrics":01',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_with_a_right_digest_is_refused(case: str) -> None:
    body = msgspec.json.encode(small_manifest())
    if case == "duplicate key":
        body = HOSTILE[case] + body[1:]
    else:
        body = body.replace(b'"metrics":{"loss":-0.5}', HOSTILE[case])
    with pytest.raises(DamagedCheckpointError) as caught:
        decode_manifest(sealed(body), path="/somewhere/manifest.json", step=7)
    assert caught.value.path == "/somewhere/manifest.json"
    assert "/somewhere/manifest.json" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "changes",
    [
        {"step": True},
        {"step": -1},
        {"step": 2**53 + 1},
        {"step": "7"},
        {"step": 7.5},
        {"created": "now"},
        {"created": -1},
        {"expects_report": 1},
        {"attempt": "../x"},
        {"attempt": ""},
        {"files": {}},
        {"files": None},
        {"tensors": [1]},
        {"listeners": []},
        {"surprise": 1},
        {"version": 0},
        {"version": True},
        {"version": "1"},
        {"version": None},
        {"version": 1.5},
    ],
    ids=str,
)
def test_wrong_fields_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedCheckpointError):
        decode_manifest(resealed(small_manifest(), **changes))


@pytest.mark.parametrize("missing", ["version", "step", "files", "tensors", "tree", "listeners", "metrics"])
def test_missing_fields_are_refused(missing: str) -> None:
    body = body_of(small_manifest())
    del body[missing]
    if missing == "version":
        with pytest.raises(DamagedCheckpointError):
            decode_manifest(sealed(msgspec.json.encode(body)))
    else:
        with pytest.raises(DamagedCheckpointError, match=missing):
            decode_manifest(sealed(msgspec.json.encode(body)))


@pytest.mark.parametrize(
    ("index", "changes"),
    [
        (0, {"shape": [2, 3]}),
        (0, {"shape": [-2, -2]}),
        (0, {"shape": [True, 4]}),
        (0, {"shape": [2**53, 2**53, 2**53, 2**53]}),
        (0, {"shape": [2**32, 2**32]}),
        (0, {"shape": [1] * 65}),
        (0, {"shape": 4}),
        (0, {"dtype": "F33"}),
        (0, {"dtype": "F4", "shape": [3]}),
        (0, {"bytes": 15}),
        (0, {"bytes": -16}),
        (0, {"offset": 4095}),
        (0, {"offset": 4097}),
        (0, {"offset": 4112}),
        (0, {"offset": 0}),
        (0, {"offset": -1}),
        (0, {"offset": 4096.0}),
        (0, {"file": 1}),
        (0, {"file": -1}),
        (0, {"file": False}),
        (0, {"digest": HEX[:-1]}),
        (0, {"digest": HEX.upper()}),
        (0, {"digest": HEX + "\n"}),
        (0, {"kind": ""}),
        (0, {"kind": "a b"}),
        (0, {"path": "model/b"}),
        (0, {"name": "b"}),
        (0, {"path": None}),
        (1, {"bytes": 6, "shape": [6]}),
        (1, {"bytes": 8, "shape": [8]}),
        (2, {"offset": 4118}),
        (2, {"offset": 4120}),
        (2, {"extra": 1}),
    ],
    ids=str,
)
def test_tensors_must_cover_their_file_exactly_once(index: int, changes: dict[str, Any]) -> None:
    tensors = body_of(small_manifest())["tensors"]
    tensors[index].update(changes)
    with pytest.raises(DamagedCheckpointError):
        decode_manifest(resealed(small_manifest(), tensors=tensors))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../model.safetensors"},
        {"name": "/etc/passwd"},
        {"name": "a/b"},
        {"name": ".."},
        {"name": ".tmp"},
        {"name": "a\n"},
        {"name": "\u0430.safetensors"},
        {"name": "manifest.json"},
        {"name": "report.json"},
        {"name": "x" * 201},
        {"name": "trailing."},
        {"bytes": 4118},
        {"bytes": 4120},
        {"bytes": 2**60},
        {"header_bytes": 4095},
        {"header_bytes": 9},
        {"header_digest": "x" * 32},
    ],
    ids=str,
)
def test_files_must_be_plain_names_and_full(changes: dict[str, Any]) -> None:
    files = body_of(small_manifest())["files"]
    files[0].update(changes)
    with pytest.raises(DamagedCheckpointError):
        decode_manifest(resealed(small_manifest(), files=files))
    files = body_of(small_manifest())["files"]
    with pytest.raises(DamagedCheckpointError, match="twice"):
        decode_manifest(resealed(small_manifest(), files=files * 2))


def test_a_newer_format_is_said_to_be_newer_whatever_else_it_holds() -> None:
    with pytest.raises(FormatVersionError, match="format 2; this release reads up to 1") as caught:
        decode_manifest(sealed(b'{"version":2,"anything":[]}'), path="p", step=3)
    assert (caught.value.path, caught.value.step) == ("p", 3)
    with pytest.raises(FormatVersionError):
        decode_report(sealed(b'{"version":9}'))


def test_a_manifest_of_another_step_is_refused() -> None:
    with pytest.raises(DamagedCheckpointError, match="belongs to step 7"):
        decode_manifest(encode_manifest(small_manifest()), step=8)


def test_a_report_is_not_a_manifest() -> None:
    with pytest.raises(DamagedCheckpointError):
        decode_manifest(encode_report(small_report()))
    with pytest.raises(DamagedCheckpointError):
        decode_report(encode_manifest(small_manifest()))


def test_another_writer_s_spelling_is_read_if_it_is_strict() -> None:
    body = json.dumps(body_of(small_manifest()), indent=1).encode()
    assert decode_manifest(sealed(body)) == small_manifest()


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**64,
        -(2**63) - 1,
        "\ud800",
        {1: 2},
        {"a": {"\ud800": 1}},
        b"x",
        (1,),
        Text(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("field", ["metrics", "metadata", "tree", "listeners"])
def test_what_could_not_be_read_back_is_not_written(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_manifest(small_manifest(**{field: {"deep": [value]}}))


def test_what_is_nested_too_deeply_is_not_written_and_the_deepest_is_read() -> None:
    value: Any = 1
    for _ in range(strictjson.MAX_DEPTH - 1):
        value = [value]
    deepest = small_manifest(tree=value)
    assert decode_manifest(encode_manifest(deepest)) == deepest
    with pytest.raises(ValueError, match="nested"):
        encode_manifest(small_manifest(tree=[[value]]))


@pytest.mark.parametrize(
    "changes",
    [{"created": float("nan")}, {"tensors": ()}, {"files": ()}],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_manifest(small_manifest(**changes))
    with pytest.raises(ValueError, match=r"not JSON"):
        encode_report(Report(step=1, votes=[{"at": float("inf")}], metrics=None, listeners={}))


plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
json_values = st.recursive(
    plain_values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_opaque_values_come_back_exactly(value: Any) -> None:
    back = decode_manifest(encode_manifest(small_manifest(tree=value))).tree
    assert back == value
    assert repr(back) == repr(value)
    assert strictjson.loads(json.dumps(value).encode()) == value


def test_twenty_thousand_tensors_are_not_compared_with_one_another() -> None:
    tensors = tuple(
        TensorEntry(
            path=f"model/layers/{i}/weight", name=f"layers.{i}.weight", file=0, dtype="F32", shape=(4, 8),
            offset=4096 + 128 * i, bytes=128, digest=HEX, kind="numpy",
        )
        for i in range(20_000)
    )  # fmt: skip
    files = (FileEntry(name="m", bytes=4096 + 128 * len(tensors), header_bytes=4096, header_digest=HEX),)
    data = encode_manifest(small_manifest(files=files, tensors=tensors))
    start = time.process_time()
    manifest = decode_manifest(data)
    # Takes 0.1 to 0.2 s here; two hundred million pairs would take minutes.
    assert time.process_time() - start < 30
    assert len(manifest.tensors) == 20_000
