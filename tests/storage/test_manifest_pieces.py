"""Decoded piece by piece, a manifest is the manifest; what is spelled otherwise is left to the strict way."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.storage import canonical
from async_ckpt.storage.canonical import decode_in_pieces
from async_ckpt.storage.records import FileEntry, Manifest, TensorEntry

HEX = "0123456789abcdef" * 2


def manifest(count: int, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "step": 7,
        "attempt": "a-1",
        "created": 1.5,
        "expects_report": False,
        "metrics": ["dict"],
        "metadata": None,
        "files": (FileEntry(name="m", bytes=8 + 4 * count, header_bytes=8, header_digest=HEX),),
        "tensors": tuple(
            TensorEntry(
                path=f"w/{i}",
                name=f'"{i}',
                file=0,
                dtype="F32",
                shape=(1,) * (i % 3),
                offset=8 + 4 * i,
                bytes=4,
                digest=HEX,
                kind="numpy",
            )
            for i in range(count)
        ),
        "tree": ["list", 1],
        "listeners": {"best": {"path": [1]}},
    }
    return Manifest(**(fields | changes))


@pytest.fixture(params=[1, 400, 1 << 16])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(canonical, "_PIECE", request.param)
    return int(request.param)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.usefixtures("piece")
def test_pieces_of_any_size_make_the_whole(count: int) -> None:
    whole = manifest(count)
    assert decode_in_pieces(msgspec.json.encode(whole)) == whole


TRAPS = [
    {"tensors": [1]},
    [{"tensors": [{"path": "x"}], "tree": None}],
    {"a": 1, "tensors": [], "tree": None, "listeners": {}},
    '"tensors":[{"path":1}],"tree":null',
    '},{"path":',
    '],"tree":',
    '\\","tensors":[',
    {"files": [], "tensors": [{"path": "a"}], "tree": 1},
]


@pytest.mark.parametrize("trap", TRAPS, ids=str)
@pytest.mark.parametrize("field", ["metrics", "metadata", "tree", "listeners", "path", "name"])
@pytest.mark.usefixtures("piece")
def test_what_looks_like_a_place_to_cut_is_none(field: str, trap: Any) -> None:
    if field in {"path", "name"}:
        first, *others = manifest(4).tensors
        changed = msgspec.structs.replace(first, **{field: str(trap)})
        whole = manifest(4, tensors=(changed, *others))
    else:
        whole = manifest(4, **{field: {"x": trap} if field == "listeners" else trap})
    body = msgspec.json.encode(whole)
    found = decode_in_pieces(body)
    assert found is None or found == whole
    assert found is not None or (
        field in {"metrics", "metadata"} and b',"tensors":[' in msgspec.json.encode(trap)
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b',"tensors":[],"tree":null',
        json.dumps(json.loads(msgspec.json.encode(manifest(2)))).encode(),
        msgspec.json.encode(manifest(2)) + b" ",
        b" " + msgspec.json.encode(manifest(2)),
        msgspec.json.encode(manifest(2)).replace(b'"step":7', b'"step":7,"step":7'),
        msgspec.json.encode(manifest(2)).replace(b'"step":7', b'"step":-7'),
        msgspec.json.encode(manifest(2)).replace(b'"version":1', b'"version":2'),
        msgspec.json.encode(manifest(2)).replace(b'"best":', b'"best":1,"best":'),
        msgspec.json.encode(manifest(2)).replace(b'"bytes":4,', b'"bytes":4.0,'),
        msgspec.json.encode(manifest(2)).replace(b'},{"path":', b'}{"path":'),
        msgspec.json.encode(manifest(2)).replace(b'},{"path":', b'},,{"path":'),
        msgspec.json.encode(manifest(2)).replace(b'}],"tree"', b'},],"tree"'),
        msgspec.json.encode(manifest(2, tree=[[[]]] * 2)).replace(b"[[[]]", b"[" * 100_000 + b"[[]]"),
    ],
)
@pytest.mark.usefixtures("piece")
def test_any_other_spelling_is_left_alone(body: bytes) -> None:
    assert decode_in_pieces(body) is None


@given(st.data())
def test_bytes_that_changed_mean_the_same_in_pieces_as_in_one_go(data: st.DataObject) -> None:
    body = bytearray(msgspec.json.encode(manifest(3)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        what = data.draw(st.sampled_from([b"", b'"', b",", b"]", b"}", b"{", b"[", b"1", b"\\"]))
        body[at : at + data.draw(st.integers(0, 1))] = what
    found = decode_in_pieces(bytes(body))
    if found is not None:
        assert found == msgspec.json.decode(body, type=Manifest)
        assert msgspec.json.encode(found) == body
