"""An HTTP service that trains in the background and goes on answering while it saves.

python examples/async_service.py [DIRECTORY [PORT [MEBIBYTES]]]

curl localhost:8080/                      where the training stands
curl -X POST localhost:8080/checkpoint    save now; answers when the checkpoint is durable
curl -X POST localhost:8080/stop          save a last time and end
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import numpy as np

import async_ckpt as ac


class Service:
    """Training, checkpoints and HTTP on one event loop."""

    def __init__(self, directory: str, mebibytes: int) -> None:
        self.weights = np.ones((mebibytes, 1024, 256), dtype=np.float32)
        self.saving: int | None = None
        saver_hook = ac.CheckpointSaverHook(directory, {"weights": self.weights}, save_secs=60)
        self.session = ac.MonitoredTrainingSession(
            chief_only_hooks=[saver_hook], handle_signals=(signal.SIGTERM, signal.SIGINT)
        )
        self.session.subscribe(self.observe)

    def observe(self, event: ac.events.Event) -> None:
        if isinstance(event, ac.events.SaveRequested):
            self.saving = event.step
        elif isinstance(event, ac.events.SaveCommitted | ac.events.SaveFailed | ac.events.SaveUnknown):
            self.saving = None

    def train_step(self) -> None:
        self.weights *= np.float32(0.999)

    async def answer(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        if (method, path) == ("GET", "/"):
            return "200 OK", {"step": self.session.global_step, "saving": self.saving}
        if (method, path) == ("POST", "/checkpoint"):
            saved: Any = await self.session.save()
            return "200 OK", {"step": saved.step, "path": str(saved.path), "bytes": saved.bytes}
        if (method, path) == ("POST", "/stop"):
            self.session.request_stop("asked to over HTTP")
            return "202 Accepted", {"stopping": True}
        return "404 Not Found", {"error": f"no {method} {path}"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, *_ = [*(await reader.readline()).decode("latin-1").split(), "", ""]
        while (await reader.readline()).strip():
            pass  # nothing here depends on a header
        try:
            status, body = await self.answer(method, path)
        except ac.CheckpointError as error:
            status, body = "503 Service Unavailable", {"error": str(error)}
        text = json.dumps(body) + "\n"
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()
        writer.close()


async def main(directory: str = "runs/service", port: str = "8080", mebibytes: str = "16") -> None:
    service = Service(directory, int(mebibytes))
    server = await asyncio.start_server(service.serve, "127.0.0.1", int(port))
    async with server, service.session as session:
        print(f"port {server.sockets[0].getsockname()[1]}, step {session.global_step}", flush=True)
        while not session.should_stop():
            await session.run(service.train_step)
    print(f"stopped at step {session.global_step}: {session.stop_reason}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
