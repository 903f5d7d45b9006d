"""The gate of a simulated server, as SGLang has it: its schedulers wait there before they take memory."""

import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mmap import mmap

from .command_line import Flags

#: Seconds between two looks of a rank whether the gate is open; SGLang's own, see Flags.seconds.
POLL = 1.0


def wait_at_gate(flags: Flags, port: int, rank: int, is_open: mmap) -> None:
    """Wait until the gate is opened; `is_open`, shared by all ranks, begins with 1 then.

    The first rank listens there, and goes on doing so.
    """
    if rank == 0:
        server = ThreadingHTTPServer((flags.host, port), _handler(is_open))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"Gated launch control server started on {flags.host}:{port}", flush=True)
    print(f"Gated launch waiting for activation. rank={rank}", flush=True)
    began = time.monotonic()
    while not is_open[0]:
        time.sleep(flags.seconds(POLL))
    print(f"Gated launch activated. elapsed={time.monotonic() - began:.2f} s", flush=True)


def _handler(is_open: mmap) -> type[BaseHTTPRequestHandler]:
    class GateHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path == "/gate/activate":
                is_open[0] = 1
            self._answer(HTTPStatus.OK if self.path == "/gate/activate" else HTTPStatus.NOT_FOUND)

        def _answer(self, status: HTTPStatus) -> None:
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of probes, as SGLang's does not."""

    return GateHandler
