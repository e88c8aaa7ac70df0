"""Safeguards of reading: nothing is believed that was not checked."""

from __future__ import annotations

from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["READING"]


def damaged(only: str) -> Killer:
    """Some of the bytes and lengths that the tier of hostile bytes damages."""
    return Killer("hostile_bytes/test_exhaustive.py", only)


READING = [
    Mutant(
        "the manifest's existence is enough",
        "a manifest counts only if its bytes have its digest",
        "storage/manifest.py",
        '    if digest(body).encode("ascii") != written:\n',
        "    if False:\n",
        (damaged("damaged and memory"),),
    ),
    Mutant(
        "the digest of a small tensor is not compared",
        "every byte of a tensor is compared with its digest before it is used",
        "saver/filling.py",
        "            if xxhash.xxh3_128_hexdigest(data[start:end]) != tensors[number].digest:\n",
        "            if False:\n",
        (damaged("damaged and memory"),),
    ),
    Mutant(
        "verify compares no digest",
        "verify reads every byte and compares it",
        "saver/verifying.py",
        "        if self._hash.hexdigest() != digest:\n",
        "        if False:\n",
        (damaged("damaged and memory"),),
    ),
    Mutant(
        "sizes are not compared",
        "a file of another length than the manifest says is damaged, before anything is read",
        "saver/catalog.py",
        "            if size != file.bytes:\n",
        "            if False:\n",
        (damaged("cut"),),
    ),
]
