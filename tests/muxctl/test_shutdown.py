import signal
import subprocess
import sys
import threading

import pytest

# A muxd that ends a moment after it was told to, with something to clean up first.
ENDING = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
assert connection.recv(4096).startswith(b"POST /v1/shutdown ")
connection.sendall(b'HTTP/1.1 202 Accepted\\r\\nContent-Length: 17\\r\\n\\r\\n{"stopping":true}')
print("answered", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ending(short_dir):
    """(socket, process): it ends when its stdin is closed."""
    path = str(short_dir / "m.sock")
    child = subprocess.Popen(
        [sys.executable, "-c", ENDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "listening\n"
    yield path, child
    child.kill()
    child.communicate()


def test_it_waits_until_the_process_is_gone(ending, process):
    path, muxd = ending
    muxctl = process("shutdown", "--socket", path)
    assert muxd.stdout.readline() == "answered\n"
    with pytest.raises(subprocess.TimeoutExpired):
        muxctl.wait(0.3)
    muxd.communicate()  # closes its stdin and waits for its end
    assert muxctl.communicate(timeout=20) == ("muxd has stopped\n", "")
    assert muxctl.returncode == 0


def test_no_wait_returns_when_it_is_accepted(ending, muxctl):
    path, muxd = ending
    assert muxctl("shutdown", "--no-wait", "--socket", path) == (0, "muxd is stopping\n", "")
    assert muxd.poll() is None


def test_json_says_whether_it_has_ended(muxd, muxctl):
    muxd.scripts["POST /v1/shutdown"] = lambda talk: talk.json({"stopping": True}, 202)
    assert muxctl("shutdown", "--no-wait", "--json") == (0, '{"stopped": false}\n', "")


def test_where_the_process_cannot_be_seen_the_socket_is_watched(muxd, muxctl, monkeypatch):
    """As in a container: the pid is that of somebody else or of nobody."""
    monkeypatch.setattr("muxctl.control_connection.ControlConnection.peer_pid", lambda connection: 0)
    closers = []

    def script(talk):
        talk.json({"stopping": True}, 202)
        closers.append(threading.Thread(target=muxd.close))
        closers[0].start()

    muxd.scripts["POST /v1/shutdown"] = script
    assert muxctl("shutdown") == (0, "muxd has stopped\n", "")
    closers[0].join()


def test_whoever_may_not_is_exit_5_and_nothing_is_waited_for(muxd, muxctl):
    muxd.scripts["POST /v1/shutdown"] = lambda talk: talk.error(403, "permission_denied", "your user may not")
    assert muxctl("shutdown") == (5, "", "muxctl: your user may not\n")


def test_an_interrupt_ends_the_waiting_only(ending, process):
    path, muxd = ending
    muxctl = process("shutdown", "--socket", path)
    assert muxd.stdout.readline() == "answered\n"
    muxctl.send_signal(signal.SIGINT)
    assert muxctl.communicate(timeout=20) == ("", "muxctl: not waiting any more; muxd goes on stopping\n")
    assert muxctl.returncode == 130
    assert muxd.poll() is None


def test_it_ends_alone_where_it_is_told_to(muxd, muxctl):
    bodies = []
    muxd.scripts["POST /v1/shutdown"] = lambda talk: (bodies.append(talk.body), talk.json({"stopping": True}, 202))
    answer = (0, "muxd is stopping; models and proxy run on: muxd start\n", "")
    assert muxctl("shutdown", "--no-wait", "--leave-workers") == answer
    assert muxctl("shutdown", "--no-wait", "--leave-workers", "--now") == answer
    assert bodies == [{"leave_workers": True, "now": now} for now in (False, True)]
    assert muxctl("shutdown", "--now")[0] == 2
