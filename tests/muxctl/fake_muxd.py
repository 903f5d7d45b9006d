"""A control socket that answers from a script: real bytes on a real Unix socket, no muxd behind it."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Script = Callable[["Talk"], None]


class Talk:
    """One request and the connection to answer it on."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        source = connection.makefile("rb")
        with source:
            self.line = source.readline().decode().strip()
            length = 0
            while (header := source.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.body = json.loads(source.read(length) or b"null")

    def raw(self, data: bytes) -> None:
        self.connection.sendall(data)

    def json(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.raw(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content))

    def error(self, status: int, code: str, message: str, **details: object) -> None:
        self.json({"error": {"code": code, "message": message, "retryable": False, "details": details}}, status)

    def stream(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n\r\n")

    def chunk(self, *values: object) -> None:
        content = b"".join(json.dumps(value).encode() + b"\n" for value in values)
        self.raw(b"%x\r\n%s\r\n" % (len(content), content))

    def end(self) -> None:
        self.raw(b"0\r\n\r\n")

    def wait_for_close(self) -> None:
        self.connection.settimeout(20)
        with suppress(OSError):
            while self.connection.recv(4096):
                pass


def stream_of(*lines: object, then_wait: bool = False) -> Script:
    """Tell these lines, a chunk each, and end the stream, or leave that to muxctl."""

    def script(talk: Talk) -> None:
        talk.stream()
        for line in lines:
            talk.chunk(line)
        talk.wait_for_close() if then_wait else talk.end()

    return script


class FakeMuxd:
    """Listens until closed; every connection runs the script of its request line in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scripts: dict[str, Script] = {}  # by "METHOD TARGET"
        self.requests: list[tuple[str, object]] = []  # request line without the version, body
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk = Talk(connection)
            if not talk.line:
                return
            request = talk.line.rpartition(" ")[0]
            self.requests.append((request, talk.body))
            if request in self.scripts:
                self.scripts[request](talk)
            else:
                talk.error(404, "route_not_found", f"the script has no {request}")
