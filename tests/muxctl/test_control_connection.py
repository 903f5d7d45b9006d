import os
import socket
import threading
import time

import pytest

from muxctl import control_connection
from muxctl.control_connection import ControlConnection, DeadlinePassed, ask, stream
from muxctl.exit_codes import CommandFailed, ExitCode

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def answers(muxd):
    """Make every GET / answer with these pieces, each its own send, then close."""

    def answers(*pieces: bytes) -> str:
        def script(talk):
            talk.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            for piece in pieces:
                talk.raw(piece)

        muxd.scripts["GET /"] = script
        return str(muxd.path)

    return answers


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b'Content-Length: 8\r\n\r\n{"a": 1}'],
        [HEAD, b"CONTENT-LENGTH:8\r\n", b"\r\n", b'{"a"', b": 1}"],
        [HEAD + b'Transfer-Encoding: chunked\r\n\r\n4;x=y\r\n{"a"\r\n', b"4\r\n: 1}\r\n0\r\nTrailer: 1\r\n\r\n"],
        [b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}'],
    ],
    ids=["length", "in pieces", "chunked", "until the close"],
)
def test_a_body_is_read_however_it_is_framed(answers, pieces):
    assert ask(answers(*pieces), "GET", "/") == {"a": 1}


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\n\r\nabc",
        b"\r\n",
        HEAD + b"x: " + b"y" * 70000,
        HEAD + b"x: y\r\n" * 300 + b"\r\n",
    ],
)
def test_what_is_not_the_http_of_muxd_is_told_in_one_line(answers, answer):
    path = answers(answer)
    with pytest.raises(CommandFailed) as caught:
        ask(path, "GET", "/")
    assert caught.value.message == f"what listens at {path} does not speak as muxd does; is it another program?"
    assert caught.value.code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 5\r\n\r\n{}", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
)
def test_an_answer_that_breaks_off_is_told_as_such(answers, answer):
    path = answers(answer)
    with pytest.raises(CommandFailed) as caught:
        ask(path, "GET", "/")
    assert caught.value.message == f"muxd at {path} closed the connection before its answer was complete"


def test_a_muxd_that_hangs_is_not_waited_for_for_ever(muxd, monkeypatch):
    monkeypatch.setattr(control_connection, "ANSWER_TIMEOUT", 0.05)
    muxd.scripts["GET /"] = lambda talk: talk.wait_for_close()
    with pytest.raises(CommandFailed) as caught:
        ask(str(muxd.path), "GET", "/")
    what = "accepted the connection, but does not answer; what was asked may still be done; see its log"
    assert caught.value.message == f"muxd at {muxd.path} {what}"


def test_a_stream_gives_each_line_as_it_comes(muxd):
    def script(talk):
        talk.stream()
        talk.chunk({"n": 1}, {"n": 2})
        talk.raw(b'3\r\n{"n\r\n')  # a line in two chunks
        talk.raw(b'5\r\n":3}\n\r\n')
        talk.wait_for_close()

    muxd.scripts["GET /"] = script
    lines = stream(str(muxd.path), "GET", "/")
    assert [next(lines) for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    lines.close()


def test_a_stream_may_be_silent_for_long(muxd, monkeypatch):
    monkeypatch.setattr(control_connection, "ANSWER_TIMEOUT", 0.05)

    def script(talk):
        talk.stream()
        talk.connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            talk.connection.recv(1)
        talk.chunk({"n": 1})
        talk.end()

    muxd.scripts["GET /"] = script
    assert list(stream(str(muxd.path), "GET", "/")) == [{"n": 1}]


def test_a_deadline_ends_a_stream(muxd):
    def script(talk):
        talk.stream()
        talk.chunk({"n": 1})
        talk.wait_for_close()

    muxd.scripts["GET /"] = script
    lines = stream(str(muxd.path), "GET", "/", deadline=time.monotonic() + 0.1)
    assert next(lines) == {"n": 1}
    with pytest.raises(DeadlinePassed):
        next(lines)


def test_an_error_within_a_stream_is_a_failure(muxd):
    def script(talk):
        talk.stream()
        talk.chunk({"n": 1}, {"error": {"code": "unavailable", "message": "cannot read the log any further"}})
        talk.end()

    muxd.scripts["GET /"] = script
    lines = stream(str(muxd.path), "GET", "/")
    assert next(lines) == {"n": 1}
    with pytest.raises(CommandFailed, match="cannot read the log any further"):
        next(lines)


def test_the_process_behind_the_socket_is_known(muxd):
    import os

    with ControlConnection(str(muxd.path)) as opened:
        assert opened.peer_pid() == os.getpid()


@pytest.fixture
def full(tmp_path):
    """A socket at which one waits to be accepted, and none more may."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(path)
        listening.listen(0)
        first.connect(path)
        yield path, listening


def test_where_others_connect_faster_than_muxd_accepts_it_waits_its_turn(full):
    path, listening = full
    threading.Timer(0.1, lambda: listening.accept()[0].close()).start()
    with ControlConnection(path) as connected:
        assert connected.peer_pid() == os.getpid()


def test_it_does_not_wait_for_its_turn_for_ever(full):
    with pytest.raises(
        CommandFailed, match="more connect to it than it has accepted in all this time; try again"
    ) as caught:
        ControlConnection(full[0], patience=0.05)
    assert caught.value.code == ExitCode.UNREACHABLE
