"""The systems that are compared, by name; each is imported only where it is measured."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from benchmarks.systems.base import System

__all__ = ["SYSTEMS", "Entry", "make"]


@dataclass(frozen=True)
class Entry:
    """A system: what the page calls it, what its "durable" means, and where it is driven."""

    label: str
    durable: str
    driver: str
    arguments: tuple[str, ...] = ()


SYSTEMS = {
    "ours-copy": Entry(
        'async_ckpt, `staging="copy"`',
        "files, manifest and directories are fsynced around one rename",
        "ours:Ours",
        ("copy",),
    ),
    "ours-overlap": Entry(
        'async_ckpt, `staging="overlap"`',
        "the same; its stall is the call plus what `mutating()` waits after a step of 300 ms",
        "ours:Ours",
        ("overlap",),
    ),
    "ours-window": Entry("async_ckpt, `staging_bytes=` ¼ state", "the same", "ours:OursThroughAWindow"),
    "orbax-numpy": Entry(
        "Orbax AsyncCheckpointer, numpy",
        "array files are fsynced; its metadata and the rename are not",
        "orbax:Orbax",
        ("numpy",),
    ),
    "orbax-jax": Entry("Orbax AsyncCheckpointer, jax", "the same", "orbax:Orbax", ("jax",)),
    "dcp-thread": Entry(
        "torch DCP async_save, thread",
        "files are fsynced; the directory is not",
        "torch_dcp:TorchDcp",
        ("thread",),
    ),
    "dcp-process": Entry("torch DCP async_save, process", "the same", "torch_dcp:TorchDcp", ("process",)),
    "dcp-stager": Entry(
        "torch DCP async_save, reused shared memory", "the same", "torch_dcp:TorchDcp", ("stager",)
    ),
    "torchsnapshot": Entry(
        "torchsnapshot async_take",
        "nothing is fsynced; the page cache has it",
        "snapshot:TorchSnapshot",
    ),
    "safetensors": Entry(
        "copy everything, then safetensors in a thread",
        "file and directory are fsynced",
        "plain:CopyThenSafetensors",
    ),
    "torch-save": Entry(
        "torch.save, waited for",
        "file and directory are fsynced; nothing is left to the background",
        "plain:TorchSave",
    ),
    "copyto": Entry("bare numpy.copyto into reused memory", "writes nothing", "raw:CopyTo"),
    "direct": Entry("bare loop of O_DIRECT writes", "one file, fsynced; copies nothing", "raw:DirectWrite"),
}


def make(name: str) -> System:
    """Build the system of that name.

    Raises:
        KeyError: There is none.
        ImportError: It is not installed.
    """
    module, _, driver = SYSTEMS[name].driver.partition(":")
    found: Any = getattr(importlib.import_module(f"benchmarks.systems.{module}"), driver)
    system: System = found(*SYSTEMS[name].arguments)
    return system
