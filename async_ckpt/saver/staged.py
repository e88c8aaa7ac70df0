"""A save's state between the live arrays and the disk: what lies where, and the memory it lies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from async_ckpt.saver.manifests import manifest_template
from async_ckpt.saver.memory import Loan
from async_ckpt.state import cuda, staging
from async_ckpt.state.arrays import Bytes, is_immutable, stored
from async_ckpt.state.copying import Copier
from async_ckpt.state.jax_arrays import hold_all
from async_ckpt.state.layout import plan
from async_ckpt.state.placing import place
from async_ckpt.state.tree import Flat
from async_ckpt.state.validating import changed
from async_ckpt.storage.template import ManifestTemplate

__all__ = ["Plan", "Staged"]


class Plan:
    """All that is decided once per structure. Takes a while to make, in a thread.

    Args:
        flat: A state of this structure.
        donated: Whether training gives its immutable arrays away, to be overwritten: holding on to one
            costs it more then than a copy.
        max_shard_bytes: Bytes of tensors per file, or None.
        limit: Bytes of memory it may be staged in, or None.

    Attributes:
        outline: The structure it holds for.
        layout: What lies in which file.
        placing: What lies where in memory.
        constant: For each leaf whether it never changes.
    """

    def __init__(self, flat: Flat, *, donated: bool, max_shard_bytes: int | None, limit: int | None) -> None:
        self.outline = flat.outline
        self.donated = donated
        self.constant = tuple(not donated and is_immutable(value) for value in flat.values)
        self.layout = plan(self.outline.tensors, max_shard_bytes=max_shard_bytes)
        self.placing = place(self.layout, self.constant, limit)

    @cached_property
    def template(self) -> ManifestTemplate:
        """The manifest as far as it is known; made when the first is to be written."""
        return manifest_template(self.outline, self.layout)


class Staged:
    """One state on its way.

    Attributes:
        plan: Its places.
        flat: The state, taken apart.
        loan: Its memory; None once it was given back.
        copier: Makes its files, while it has not been dropped.
    """

    def __init__(self, plan: Plan, flat: Flat, loan: Loan) -> None:
        self.plan = plan
        self.flat = flat
        self.loan: Loan | None = loan
        self._memory: memoryview | None = loan.arena.reserve(plan.placing.nbytes)
        self._devices = {} if flat.mark is None else cuda.places(plan.layout, plan.placing, flat.values)
        self._held: Sequence[Any] = flat.values
        self.copier = Copier(plan.outline.specs, flat.values, plan.outline.paths, skip=self._devices)

    def fetch(self, copier: cuda.Copier) -> None:
        """Copy what lies on GPUs to its place; the rest is up to ``self.copier``. Called in a thread."""
        if not self._devices:
            return
        assert self.loan is not None  # noqa: S101 - nobody asks after `drop`
        device = next(iter(self._devices.values())).tensor.device
        pinned = self.loan.arena.pin(lambda memory: cuda.pin(memory, device))
        places = self._devices.values()
        copier.start(places, self.memory, after=self.flat.mark, pinned=pinned).wait()

    def hold(self) -> None:
        """Keep what never changes by reference. Waits until it is computed: call it in a thread."""
        kept = [index for index, constant in enumerate(self.plan.constant) if constant]
        held = list(self.flat.values)
        for index, array in zip(kept, hold_all([held[index] for index in kept]), strict=True):
            held[index] = array
        self._held = held
        self.copier = Copier(self.plan.outline.specs, held, self.plan.outline.paths, skip=self._devices)

    def detach(self) -> None:
        """From here on look at copies only: the living state may change."""
        plan, stash = self.plan, self.plan.placing.stash
        if not stash:
            return
        memory, specs = self.memory, plan.outline.specs
        values = list(self._held)
        for index, at in stash.items():
            spec = specs[index]
            values[index] = stored(spec.dtype, spec.shape, memory[at : at + spec.nbytes])
        self.copier = Copier(specs, values, plan.outline.paths)

    def changed(self) -> list[int]:
        """Compare what was copied with the living state; the numbers of the leaves that differ."""
        plan = self.plan
        living = Copier(plan.outline.specs, self._held, plan.outline.paths)
        return changed(plan.layout, plan.placing, living, self.memory)

    @property
    def memory(self) -> Bytes:
        """The bytes that were lent."""
        assert self._memory is not None  # noqa: S101 - nobody asks after `drop`
        return np.frombuffer(self._memory, np.uint8) if len(self._memory) else np.empty(0, np.uint8)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.plan.layout.files)

    def image(self, number: int) -> Bytes | None:
        """The memory that holds a file byte for byte, or None if it is made while it is written."""
        return staging.image_of(self.plan.layout, self.plan.placing, number, self.memory)

    def slots(self) -> list[tuple[Bytes, Bytes]]:
        """Pairs of slots for files that are made while they are written."""
        window = self.plan.placing.window
        if window is None:
            return []
        row = self.memory[window.start : window.start + window.nbytes]
        pairs = row.reshape(window.abreast, 2, window.slot)
        return [(pair[0], pair[1]) for pair in pairs]

    def view(self) -> Callable[[], Any] | None:
        """What shows the state as it was staged; None if memory never held all of it."""
        if self.plan.placing.live:
            return None
        return self._view

    def _view(self) -> Any:
        assert self._memory is not None  # noqa: S101 - nobody asks after `drop`
        plan = self.plan
        return staging.view(
            self.flat.structure,
            plan.layout,
            plan.placing,
            plan.outline.specs,
            self._shown(),
            self._memory,
        )

    def _shown(self) -> list[Any]:
        """The leaves as they were given, except for what training has given away since."""
        plan = zip(self.flat.values, self._held, self.plan.constant, strict=True)
        return [kept if constant and value.is_deleted() else value for value, kept, constant in plan]

    def drop(self) -> Loan | None:
        """Let go of the memory, and give the loan to be given back; None if that was done before."""
        loan, self.loan = self.loan, None
        self._memory = None
        # It may look at the stash, and memory that is looked at is not lent again.
        self.copier = Copier((), (), ())
        self._held, self._devices = (), {}
        return loan
