"""Safeguards of reading: nothing is believed that was not checked."""

from __future__ import annotations

from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["READING"]


def damaged(only: str) -> Killer:
    """Some of the bytes and lengths that the tier of hostile bytes damages."""
    return Killer("hostile_bytes/test_exhaustive.py", only)


def stranger(file: str, only: str) -> Killer:
    """Some of the tests of checkpoints that somebody hostile has made."""
    return Killer(f"hostile_checkpoints/{file}.py", only)


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
    Mutant(
        "sizes are not limited",
        "a manifest that is too large is refused before memory is taken for it",
        "storage/reading.py",
        "        if size > limit:\n",
        "        if False:\n",
        (stranger("test_sizes_and_numbers", "s6_a_manifest"),),
    ),
    Mutant(
        "whatever lies there is opened",
        "only plain files are read: no pipe, no device",
        "storage/posix.py",
        "    if not stat.S_ISREG(mode):\n",
        "    if False:\n",
        (stranger("test_sizes_and_numbers", "s6_what_is_not"),),
    ),
    Mutant(
        "the last of two equal keys counts",
        "a manifest that two readers could read differently is refused",
        "storage/manifest.py",
        "            if may_exceed_64_bits(body) or msgspec.json.encode(record) != body:\n",
        "            if False:\n",
        (stranger("test_sizes_and_numbers", "s7"),),
    ),
    Mutant(
        "another step's manifest is believed",
        "a manifest belongs to the step whose name it lies under",
        "storage/manifest.py",
        "    if asked is not None and found != asked:\n",
        "    if False:\n",
        (stranger("test_parts_and_places", "s11"),),
    ),
    Mutant(
        "any spelling of a step is a step",
        "a step has one spelling",
        "storage/names.py",
        "    return step if step_name(step) == name else None\n",
        "    return step\n",
        (stranger("test_names", "s9"),),
    ),
    Mutant(
        "file names are not judged",
        "a name from a manifest is one path component from an allowed alphabet",
        "storage/names.py",
        '    return _FILE.fullmatch(name) is not None and not name.endswith(".")\n',
        "    return bool(name)\n",
        (stranger("test_names", "s3"),),
    ),
]
