"""`python -m muxd.simulator.router --port PORT`: a stand-in for sglang-router, for groups of simulated workers.

It passes each request on to the next of its workers, round robin.  Of the worker API it speaks what sglang-router 0.3.2
does: `GET` and `POST /workers`, `DELETE /workers/{id}`, `/liveness`, and `/readiness`, which is 503 without a worker
that answers.  Unlike sglang-router it tries the next worker where a connection is refused, and knows at once.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import count
from typing import Any

import httpx
import trio

from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits

MiB = 1 << 20

LIMITS = ServerLimits(max_body=64 * MiB, write_timeout=300.0, max_connections=10_000)

#: Headers that belong to one connection, and are not passed on.
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"host", b"expect"}

#: Seconds between two looks at whether the workers answer.
HEALTH_INTERVAL = 0.5


class NoWorkerLeft(MuxdError):
    """No worker answers, or the one that did has gone in the middle of its answer."""

    status = 503
    code = "no_worker_left"


class RoutedWorker:
    """One worker that requests are passed on to."""

    def __init__(self, number: int, url: str) -> None:
        self.id = f"worker-{number}"
        self.url = url
        self.is_healthy = False

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "url": self.url, "worker_type": "regular", "is_healthy": self.is_healthy}


class RoundRobin:
    """The workers, in the order in which they have their turns."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._workers: dict[str, RoutedWorker] = {}  # by id; who was asked last stands last
        self._numbers = count(1)

    async def handle(self, request: Request, writer: ResponseWriter) -> None:
        """Answer the worker API, and pass any other request on."""
        match request.method, request.path.split("/"):
            case "GET", ["", "workers"]:
                workers = [worker.as_json() for worker in self._workers.values()]
                await writer.send_json(200, {"workers": workers, "total": len(workers)})
            case "POST", ["", "workers"]:
                worker = await self._add(str(request.json()["url"]))
                answer = {"status": "accepted", "worker_id": worker.id, "location": f"/workers/{worker.id}"}
                await writer.send_json(202, answer)
            case "DELETE", ["", "workers", worker_id]:
                self._workers.pop(worker_id, None)
                await writer.send_json(202, {"status": "accepted", "worker_id": worker_id})
            case "GET", ["", "liveness"]:
                await writer.send_json(200, {"status": "alive"})
            case "GET", ["", "readiness"]:
                healthy = sum(worker.is_healthy for worker in self._workers.values())
                await writer.send_json(200 if healthy else 503, {"healthy_workers": healthy})
            case _:
                await self._forward(request, writer)

    async def _add(self, url: str) -> RoutedWorker:
        worker = next((known for known in self._workers.values() if known.url == url), None)
        if worker is None:
            worker = RoutedWorker(next(self._numbers), url)
            self._workers[worker.id] = worker
            await self._look_at(worker)
        return worker

    async def watch(self) -> None:
        """Look again and again whether the workers answer."""
        while True:
            await trio.sleep(HEALTH_INTERVAL)
            for worker in list(self._workers.values()):
                await self._look_at(worker)

    async def _look_at(self, worker: RoutedWorker) -> None:
        try:
            with trio.fail_after(HEALTH_INTERVAL):
                answer = await self._http.get(f"{worker.url}/health")
            worker.is_healthy = answer.status_code == 200
        except (httpx.HTTPError, trio.TooSlowError):
            worker.is_healthy = False

    async def _forward(self, request: Request, writer: ResponseWriter) -> None:
        """Pass a request on to the next worker that answers; raise NoWorkerLeft where none does."""
        headers = [(name, value) for name, value in request.headers if name.lower() not in HOP_BY_HOP]
        for worker in sorted(self._workers.values(), key=lambda worker: not worker.is_healthy):
            if self._workers.pop(worker.id, None) is not None:
                self._workers[worker.id] = worker
            url = worker.url + request.target.decode("latin-1")
            try:
                stream = self._http.stream(request.method, url, content=request.body, headers=headers, timeout=None)
                async with stream as answer:
                    content_type = answer.headers.get("content-type", "application/octet-stream")
                    await writer.start_stream(content_type, answer.status_code)
                    async for data in answer.aiter_raw():
                        await writer.write(data)
                    return
            except httpx.HTTPError as error:
                worker.is_healthy = False
                if writer.started:
                    raise NoWorkerLeft(f"{worker.url} has gone in the middle of its answer: {error}") from None
        raise NoWorkerLeft("no worker answers")


async def serve(port: int) -> None:
    """Serve on loopback until cancelled."""
    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None), trust_env=False, verify=False)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as http, trio.open_nursery() as nursery:
        router = RoundRobin(http)
        nursery.start_soon(router.watch, name="health of the workers")
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        print(f"muxd.simulator.router: listening on 127.0.0.1:{port}", flush=True)
        await serve_http(router.handle, listeners, LIMITS)


def main(argv: Sequence[str]) -> int:
    """Run one router until a signal ends it; return the exit status."""
    parser = ArgumentParser(prog="python -m muxd.simulator.router", description="A stand-in for sglang-router.")
    parser.add_argument("--port", type=int, required=True, help="where to listen, on loopback")
    try:
        trio.run(serve, parser.parse_args(argv).port)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
