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

from async_ckpt import CheckpointSaverHook, MonitoredTrainingSession, events


class Service:
    """Training state, session and HTTP front, all on one event loop."""

    def __init__(self, directory: str, mebibytes: int) -> None:
        self.state = {"weights": np.ones((mebibytes, 1024, 256), dtype=np.float32)}
        self.saving: int | None = None
        self.durable: int | None = None
        saver_hook = CheckpointSaverHook(directory, self.state, save_secs=60, max_to_keep=2)
        self.session = MonitoredTrainingSession(
            chief_only_hooks=[saver_hook], handle_signals=(signal.SIGTERM, signal.SIGINT)
        )
        self.session.subscribe(self.observe)

    def observe(self, event: events.Event) -> None:
        if isinstance(event, events.SaveRequested):
            self.saving = event.step
        elif isinstance(event, events.SaveCommitted):
            self.saving, self.durable = None, event.step

    def train_step(self) -> None:
        self.state["weights"] *= np.float32(0.999)

    async def answer(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        if (method, path) == ("GET", "/"):
            step = self.session.global_step
            return 200, {"step": step, "saving": self.saving, "durable": self.durable}
        if (method, path) == ("POST", "/checkpoint"):
            checkpoint = await self.session.save()
            return 200, {"step": checkpoint.step, "path": str(checkpoint.path), "bytes": checkpoint.bytes}
        if (method, path) == ("POST", "/stop"):
            self.session.request_stop("asked to over HTTP")
            return 202, {"stopping": True}
        return 404, {"error": f"no {method} {path}"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readline()).decode("latin-1").split()
        while (await reader.readline()).strip():
            pass  # headers: nothing here depends on them
        code, answer = (
            await self.answer(*request[:2]) if len(request) == 3 else (400, {"error": "no request"})
        )
        body = json.dumps(answer).encode() + b"\n"
        writer.write(b"HTTP/1.1 %d .\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (code, len(body)))
        writer.write(body)
        await writer.drain()
        writer.close()


async def main(directory: str = "runs/service", port: str = "8080", mebibytes: str = "16") -> None:
    service = Service(directory, int(mebibytes))
    server = await asyncio.start_server(service.serve, "127.0.0.1", int(port))
    async with server, service.session as session:
        print(
            f"listening on port {server.sockets[0].getsockname()[1]}, step {session.global_step}", flush=True
        )
        while not session.should_stop():
            await session.run(service.train_step)
    print(f"stopped at step {session.global_step}: {session.stop_reason}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
