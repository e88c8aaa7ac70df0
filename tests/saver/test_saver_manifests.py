"""A manifest made from the template of its layout is the manifest, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_ckpt.saver.manifests import manifest_template
from async_ckpt.state.layout import plan
from async_ckpt.state.tree import Flat, flatten
from async_ckpt.storage.manifest import decode_manifest, digest, encode_manifest
from async_ckpt.storage.records import FileEntry, Manifest, TensorEntry
from async_ckpt.storage.template import ManifestTemplate
from tests.state.test_tree import trees

LABELS: dict[str, Any] = {
    "step": 7,
    "attempt": "1-a",
    "created": 1.5,
    "expects_report": True,
    "metrics": ["dict", "loss", ["float", "0.5"]],
    "metadata": ["dict", "é", 'a "quoted" text'],
    "listeners": {"best": ["list", 1, None]},
}


def made(flat: Flat, shard: int | None) -> tuple[Manifest, bytes]:
    """The manifest written out by hand, and the bytes that the template gives for it."""
    layout = plan(flat.specs, max_shard_bytes=shard)
    files, digests = [], []
    tensors: dict[int, TensorEntry] = {}
    for number, file in enumerate(layout.files):
        files.append(
            FileEntry(
                name=file.name,
                bytes=file.size,
                header_bytes=file.header_bytes,
                header_digest=digest(file.header),
            )
        )
        digests.append([digest(f"{number} {placed.index}".encode()) for placed in file.tensors])
        for placed, found in zip(file.tensors, digests[-1], strict=True):
            leaf = flat.leaves[placed.index]
            tensors[placed.index] = TensorEntry(
                path=leaf.path,
                name=leaf.name,
                file=number,
                dtype=leaf.spec.dtype,
                shape=leaf.spec.shape,
                offset=placed.offset_in_file,
                bytes=placed.nbytes,
                digest=found,
                kind=leaf.spec.kind,
            )
    manifest = Manifest(
        files=tuple(files),
        tensors=tuple(tensors[index] for index in range(len(tensors))),
        tree=flat.structure,
        **LABELS,
    )
    return manifest, bytes(manifest_template(flat.outline, layout).encode(digests, flat.holes, **LABELS))


@given(trees, st.none() | st.integers(1, 64))
def test_any_manifest_is_the_one_that_is_encoded_in_one_go(tree: Any, shard: int | None) -> None:
    manifest, data = made(flatten(tree), shard)
    assert data == encode_manifest(manifest)


def test_a_manifest_of_many_tensors_is_the_one_that_is_encoded_in_one_go() -> None:
    state = {
        f"g{i}": {f"ä{j}": np.zeros((j % 3, 2), "f4" if j % 2 else "f8") for j in range(300)}
        for i in range(3)
    }
    manifest, data = made(flatten({**state, "log": [0.5] * 600}), 2000)
    assert data == encode_manifest(manifest)
    assert decode_manifest(data) == manifest


def template() -> tuple[ManifestTemplate, Flat]:
    flat = flatten({"a": [np.zeros(2)], "b": np.zeros(3), "n": 1})
    return manifest_template(flat.outline, plan(flat.specs)), flat


DIGESTS = [["0" * 32], ["1" * 32]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"created": float("nan")},
        {"metrics": float("inf")},
        {"metadata": 2**64},
        {"listeners": {"a": "\ud800"}},
    ],
    ids=str,
)
def test_labels_that_a_reader_would_refuse_are_refused(wrong: dict[str, Any]) -> None:
    made, flat = template()
    with pytest.raises(ValueError, match=r"."):
        made.encode(DIGESTS, flat.holes, **(LABELS | wrong))


def test_plain_values_that_a_reader_would_refuse_are_refused() -> None:
    made, _ = template()
    with pytest.raises(ValueError, match="not JSON"):
        made.encode(DIGESTS, [float("nan")], **LABELS)


@pytest.mark.parametrize("digests", [[], [["0" * 32]], [["0" * 32], []], [["0" * 32, "1" * 32], []]], ids=str)
def test_digests_must_be_as_many_as_tensors(digests: list[list[str]]) -> None:
    made, flat = template()
    with pytest.raises(ValueError, match="argument 2"):
        made.encode(digests, flat.holes, **LABELS)


@pytest.mark.parametrize("values", [[], [1, 2]], ids=str)
def test_plain_values_must_be_as_many_as_holes(values: list[int]) -> None:
    made, _ = template()
    with pytest.raises(ValueError, match="argument 2"):
        made.encode(DIGESTS, values, **LABELS)


ANY = "0" * 32
FILE = FileEntry(name="a.safetensors", bytes=16, header_bytes=12, header_digest=ANY)
TENSOR = TensorEntry(
    path="a", name="a", file=0, dtype="F32", shape=(1,), offset=12, bytes=4, digest=ANY, kind="numpy"
)


@pytest.mark.parametrize("contents", [[], [[]], [[0, 0]], [[1]], [[0], []]], ids=str)
def test_contents_must_be_all_tensors_once(contents: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="contents"):
        ManifestTemplate([FILE], [TENSOR], contents, [b"null"])


def test_tensors_must_cover_their_files() -> None:
    hole = TensorEntry(
        path="a", name="a", file=0, dtype="F32", shape=(0,), offset=12, bytes=0, digest=ANY, kind="numpy"
    )
    assert ManifestTemplate([FILE], [TENSOR], [[0]], [b"null"]).files == (FILE,)
    with pytest.raises(ValueError, match="the tensors end at byte 12"):
        ManifestTemplate([FILE], [hole], [[0]], [b"null"])
