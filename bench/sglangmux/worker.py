"""A simulated SGLang server that writes down what reaches it and what it answers.

One JSON line for each piece of a connection, in the file that WIRE names: [seconds on the
monotonic clock, which is the same for all processes; the model; the connection; "got" or
"sent"; the bytes, as latin-1].  `wire` reads them.  Every answer has one header more, for
experiments to see whether it arrives.
"""

import itertools
import json
import os
import sys
import time
from argparse import ArgumentParser
from typing import Any

import trio

from muxd.simulator.__main__ import main

HEADER = b"x-worker: here"

_numbers = itertools.count()


def write_down(path: str, model: str) -> None:
    """From now on, all that TCP connections of this process carry."""
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    receive, send = trio.SocketStream.receive_some, trio.SocketStream.send_all

    def note(stream: trio.SocketStream, way: str, data: bytes | bytearray) -> None:
        if stream.socket.family == trio.socket.AF_INET and data:
            line = [time.monotonic(), model, _name(stream), way, data.decode("latin-1")]
            os.write(out, json.dumps(line).encode() + b"\n")

    async def receive_some(self: trio.SocketStream, max_bytes: int | None = None) -> bytes | bytearray:
        data = await receive(self, max_bytes)
        note(self, "got", data)
        return data

    async def send_all(self: trio.SocketStream, data: Any) -> None:
        data = _with_header(bytes(data))
        note(self, "sent", data)
        await send(self, data)

    trio.SocketStream.receive_some = receive_some  # type: ignore[method-assign,assignment]
    trio.SocketStream.send_all = send_all  # type: ignore[method-assign]


def _with_header(data: bytes) -> bytes:
    first, end, rest = data.partition(b"\r\n")
    return first + end + HEADER + end + rest if first.startswith(b"HTTP/1.1 ") else data


def _name(stream: trio.SocketStream) -> str:
    """Of this connection, among those of all workers."""
    if not hasattr(stream, "name_on_wire"):
        stream.name_on_wire = f"{os.getpid()}-{next(_numbers)}"  # type: ignore[attr-defined]
    return str(stream.name_on_wire)  # type: ignore[attr-defined]


if __name__ == "__main__":
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model-path", "--model")
    write_down(os.environ["WIRE"], parser.parse_known_args()[0].model_path)
    sys.exit(main(sys.argv[1:]))
