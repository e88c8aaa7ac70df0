"""``async_save`` of torch.distributed.checkpoint: thread, process, and a stager that reuses memory."""

from __future__ import annotations

import importlib
import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any, Literal

from benchmarks.states import Arrays
from benchmarks.systems.base import Times
from benchmarks.threads import Thread

__all__ = ["TorchDcp"]


class TorchDcp:
    """One rank over gloo. The call returns when the state may be changed, its future when it is committed."""

    def __init__(self, mode: Literal["thread", "process", "stager"]) -> None:
        self._mode = mode
        self._worker = Thread("dcp")
        self._torch: Any = importlib.import_module("torch")
        self._dist: Any = importlib.import_module("torch.distributed")
        self._dcp: Any = importlib.import_module("torch.distributed.checkpoint")
        self._saver: Any = importlib.import_module("torch.distributed.checkpoint.state_dict_saver")
        self._staging: Any = importlib.import_module("torch.distributed.checkpoint.staging")
        self._stager: Any = None
        # The other strategy keeps a file open for each tensor, so that 20,000 of them exceed usual limits.
        self._torch.multiprocessing.set_sharing_strategy("file_system")

    def adopt(self, arrays: Arrays) -> None:
        from_numpy = self._torch.from_numpy
        self._state = {
            group: {name: from_numpy(array) for name, array in names.items()}
            for group, names in arrays.items()
        }

    async def open(self, directory: Path) -> None:
        self._directory = directory
        warnings.filterwarnings("ignore", module="torch")
        if not self._dist.is_initialized():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self._dist.init_process_group("gloo", rank=0, world_size=1)
        if self._mode == "stager":
            options = self._staging.StagingOptions(
                use_pinned_memory=False,  # pinning asks for CUDA
                use_shared_memory=True,
                use_async_staging=False,  # so does this
                use_non_blocking_copy=False,
            )
            self._stager = self._staging.DefaultStager(options)

    async def save(self, step: int) -> Times:
        began = time.perf_counter()
        future = await self._worker.call(self._save, self._directory / str(step))
        released = time.perf_counter()
        await self._worker.call(future.result)
        return Times(began, released, time.perf_counter())

    def _save(self, path: Path) -> Any:
        kind = self._saver.AsyncCheckpointerType
        response = self._dcp.async_save(
            self._state,
            checkpoint_id=path,
            async_checkpointer_type=kind.PROCESS if self._mode == "process" else kind.THREAD,
            async_stager=self._stager,
        )
        if hasattr(response, "staging_completion"):
            response.staging_completion.result()
            return response.upload_completion
        return response

    async def close(self) -> None:
        if self._stager is not None:
            self._stager.close()
        self._worker.close()
