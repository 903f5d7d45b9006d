"""HTTP/1.1 over muxd's Unix socket: one request per connection, whole answers or streams of JSON lines.

The parser is minimal and strict: any form of HTTP that muxd does not send is an error.  The standard library's
http.client would cost half of the time that a plain `muxctl status` takes.
"""

import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from muxctl.exit_codes import CommandFailed, ExitCode, refusal
from muxctl.socket_path import unreachable

ANSWER_TIMEOUT = 10.0  # seconds; a muxd that does not hang answers at once
#: Seconds that one wait may take.  An interrupt that comes right before a wait is noticed only after it.
NOTICE_INTERRUPT = 1.0
MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20
MAX_LINE = 8 << 20
_READ = 64 << 10


class DeadlinePassed(Exception):
    """The caller's deadline has passed."""


class AnswerCutOff(CommandFailed):
    """muxd has closed the connection before its answer was complete."""


class ControlConnection:
    """One connection to muxd, for one request; a context manager that closes it."""

    def __init__(self, path: str, patience: float | None = None) -> None:
        """Connect to the socket at `path`; `patience` are the seconds that muxd may be silent (ANSWER_TIMEOUT).

        Raises CommandFailed.
        """
        self.path = path
        self._patience = ANSWER_TIMEOUT if patience is None else patience
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Not settimeout: a non-blocking connect(2) fails at once with EAGAIN if many others connect.
            whole, part = divmod(self._patience, 1)
            limit = struct.pack("@ll", int(whole), int(part * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise unreachable(path, error) from None
        self._socket.settimeout(self._patience)

    def __enter__(self) -> "ControlConnection":
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def peer_pid(self) -> int:
        """Return the pid of the process that listens; 0 if that is not in this pid namespace."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def ask(self, method: str, target: str, body: Any = None) -> "ControlAnswer":
        """Send one request and read the head of its answer.  Raises CommandFailed."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: muxd\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            self._socket.sendall(head.encode("ascii") + content)
        except TimeoutError:
            raise _silent(self.path) from None
        except OSError:
            pass  # muxd has refused the request unread: its answer says why
        return ControlAnswer(_Bytes(self._socket, self.path, self._patience))


class ControlAnswer:
    """A status, and a body to be read once: whole (`json`) or line by line (`lines`)."""

    def __init__(self, source: "_Bytes") -> None:
        self._source = source
        status_line, *lines = source.head()
        version, _, rest = status_line.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
            raise source.nonsense()
        self.status = int(rest[:3])
        self._headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def json(self) -> Any:
        """Read the whole body and return its JSON object; raise the CommandFailed that an error status stands for."""
        content = b"".join(self._pieces(MAX_BODY))
        try:
            value = json.loads(content) if content else {}
        except ValueError:
            raise self._source.nonsense() from None
        if self.status >= 400:
            raise refusal(value)
        if not isinstance(value, dict):
            raise self._source.nonsense()
        return value

    def lines(self, deadline: float | None = None) -> Iterator[Any]:
        """Yield the JSON objects of a stream, one a line, as they come.

        `deadline` is on the clock of time.monotonic(); DeadlinePassed is raised when it has passed.
        """
        if self.status >= 400:
            self.json()
        self._source.deadline = deadline
        self._source.patience = None
        rest = b""
        for piece in self._pieces(None):
            *complete, rest = (rest + piece).split(b"\n")
            for line in complete:
                if line.strip():
                    yield self._parsed(line)
            if len(rest) > MAX_LINE:
                raise self._source.nonsense()

    def _parsed(self, line: bytes) -> Any:
        """Return the object of one line; raise CommandFailed for an error, which ends the stream."""
        try:
            value = json.loads(line)
        except ValueError:
            raise self._source.nonsense() from None
        if not isinstance(value, dict):
            raise self._source.nonsense()
        if "error" in value and "type" not in value:
            raise refusal(value)
        return value

    def _pieces(self, limit: int | None) -> Iterator[bytes]:
        """Yield the body without its framing; raise CommandFailed beyond `limit` bytes."""
        total = 0
        for piece in self._framed():
            total += len(piece)
            if limit is not None and total > limit:
                raise self._source.nonsense()
            yield piece

    def _framed(self) -> Iterator[bytes]:
        length = self._headers.get("content-length")
        coding = self._headers.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise self._source.nonsense()
            yield from self._chunks()
        elif length is not None:
            yield from self._source.exactly(self._source.number(length, 10))
        elif self.status not in (204, 304):
            yield from self._source.to_the_end()

    def _chunks(self) -> Iterator[bytes]:
        while size := self._source.number(self._source.line().split(";")[0].strip(), 16):
            yield from self._source.exactly(size)
            if self._source.line():
                raise self._source.nonsense()
        while self._source.line():
            pass  # trailers


class _Bytes:
    """The bytes of one answer: read from the socket, buffered, and taken by line or by count."""

    def __init__(self, source: socket.socket, path: str, patience: float) -> None:
        self._socket = source
        self._path = path
        self._buffer = b""
        self.deadline: float | None = None
        self.patience: float | None = patience  # seconds; None for a stream, which may be silent

    def head(self) -> list[str]:
        """Read the status line and the header lines."""
        lines = []
        while line := self.line():
            lines.append(line)
            if len(lines) > 256:
                raise self.nonsense()
        if not lines:
            raise self.nonsense()
        return lines

    def line(self) -> str:
        """Read up to the next CRLF, and return the line without it."""
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > MAX_HEAD:
                raise self.nonsense()
            self._fill()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("latin-1")

    def exactly(self, count: int) -> Iterator[bytes]:
        """Yield the next `count` bytes, in pieces."""
        while count:
            if not self._buffer:
                self._fill()
            piece, self._buffer = self._buffer[:count], self._buffer[count:]
            count -= len(piece)
            yield piece

    def to_the_end(self) -> Iterator[bytes]:
        """Yield all bytes until muxd closes the connection, in pieces."""
        while True:
            if self._buffer:
                yield self._buffer
            self._buffer = self._received()
            if not self._buffer:
                return

    def number(self, text: str, base: int) -> int:
        """Return the length that `text` says in base 10 or 16; raise CommandFailed for anything but its digits."""
        digits = "0123456789abcdefABCDEF" if base == 16 else "0123456789"
        if not text or len(text) > 15 or text.strip(digits):
            raise self.nonsense()
        return int(text, base)

    def _fill(self) -> None:
        received = self._received()
        if not received:
            raise AnswerCutOff(
                f"muxd at {self._path} closed the connection before its answer was complete", ExitCode.UNREACHABLE
            )
        self._buffer += received

    def _received(self) -> bytes:
        while True:
            self._socket.settimeout(self._wait_limit())
            try:
                return self._socket.recv(_READ)
            except TimeoutError:
                if self.deadline is not None:
                    raise DeadlinePassed from None
                if self.patience is not None:
                    raise _silent(self._path) from None
            except ConnectionResetError:
                return b""

    def _wait_limit(self) -> float:
        if self.deadline is not None:
            return max(self.deadline - time.monotonic(), 0.001)
        return NOTICE_INTERRUPT if self.patience is None else self.patience

    def nonsense(self) -> CommandFailed:
        """Return the failure for bytes that no muxd sends."""
        return CommandFailed(
            f"what listens at {self._path} does not speak as muxd does; is it another program?", ExitCode.UNREACHABLE
        )


def _silent(path: str) -> CommandFailed:
    return CommandFailed(
        f"muxd at {path} accepted the connection, but does not answer; what was asked may still be done; see its log",
        ExitCode.UNREACHABLE,
    )


def ask(path: str, method: str, target: str, body: Any = None, patience: float | None = None) -> Any:
    """Send one request to the socket at `path`, and return its whole answer as JSON.  Raises CommandFailed."""
    with ControlConnection(path, patience) as connection:
        return connection.ask(method, target, body).json()


def stream(path: str, method: str, target: str, body: Any = None, deadline: float | None = None) -> Iterator[Any]:
    """Send one request to the socket at `path`, and yield the objects of its answer, a stream of JSON lines."""
    with ControlConnection(path) as connection:
        yield from connection.ask(method, target, body).lines(deadline)


def model_target(name: str, rest: str = "") -> str:
    """Return the URL path of a model, its name quoted: served names may hold any character."""
    from urllib.parse import quote

    return f"/v1/models/{quote(name, safe='')}{rest}"
