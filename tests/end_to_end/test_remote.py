"""Servers that muxd does not start: on a port, behind a Unix socket, and another muxd; each seen to come and go."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from tests.ports import free_port

from .conftest import QUICK
from .muxd import Muxd, eventually

REMOTE = """\
[models.far]
engine = "remote"
urls = {urls}
probe_interval = "300ms"
probe_failures = 1
restart_limit = 99
router = {{ policy = "round_robin" }}
[models.near]
engine = "simulator"
simulation = {{ {quick} }}
"""


class Far:
    """A simulated server that no muxd has started."""

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self._flags = flags
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / f"{name}-{self.port}.log").open("ab")
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "muxd.simulator", "--port", str(self.port), "--model-path", "far"]
        self.process = subprocess.Popen(
            [*argv, "--load-time", "0.1", "--pace", "0.02", *self._flags], stdout=self._log, stderr=self._log
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.stop()
        self._log.close()

    def chats(self) -> int:
        return Path(self._log.name).read_text().count("/v1/chat/completions")


@contextlib.contextmanager
def unix_socket(path: Path, port: int) -> Iterator[None]:
    """A Unix socket whose connections go to a port."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                opened.extend((client, server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=copy, args=ends, daemon=True).start()

    opened: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(5)
    for each in opened:
        each.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Far, Far]]:
    with contextlib.ExitStack() as stack:
        pair = (Far(tmp_path, "one"), Far(tmp_path, "two"))
        for server in pair:
            stack.callback(server.close)
        yield pair


def note(muxd: Muxd) -> str:
    return str(muxd.status("far")["reason"] or "")


def test_two_servers_one_of_them_behind_a_unix_socket_answer_and_one_that_goes_is_named(servers, tmp_path, start):
    one, two = servers
    path = tmp_path / "two.sock"
    with unix_socket(path, two.port):
        muxd = start(REMOTE.format(urls=json.dumps([one.url, f"unix:{path}"]), quick=QUICK))
        text = muxd.ask("far")
        eventually(lambda: muxd.ask("far") == text and one.chats() and two.chats(), "both answer")
        assert muxd.ask("near")
        assert muxd.state("far") == "ready", "it has no GPU to give way on"
        one.stop()
        eventually(lambda: one.url in note(muxd), "the one that went is named")
        assert {muxd.ask("far") for _ in range(4)} == {text}
        one.start()
        eventually(lambda: not note(muxd), "it is back")
        seen = one.chats()
        eventually(lambda: muxd.ask("far") == text and one.chats() > seen, "it answers again")


@pytest.mark.thorough
def test_while_no_server_answers_a_request_waits_and_is_answered_once_one_does(servers, start):
    one, two = servers
    two.stop()
    muxd = start(REMOTE.format(urls=json.dumps([one.url]), quick=QUICK))
    text = muxd.ask("far")
    one.stop()
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(muxd.ask("far")))
    eventually(lambda: muxd.state("far") != "ready", "muxd sees that nobody answers")
    asking.start()
    one.start()
    asking.join(30)
    assert said == [text]


@pytest.mark.thorough
def test_servers_behind_unix_sockets_are_added_and_removed_at_run_time_with_the_same_router(servers, tmp_path, start):
    one, two = servers
    first, second = tmp_path / "one.sock", tmp_path / "two.sock"
    with unix_socket(first, one.port), unix_socket(second, two.port):
        muxd = start(REMOTE.format(urls=json.dumps([f"unix:{first}"]), quick=QUICK))
        text = muxd.ask("far")
        router = muxd.status("far")["pid"]
        written = muxd.config.read_text()
        muxd.config.write_text(written.replace(f'"unix:{first}"', f'"unix:{first}", "unix:{second}"'))
        assert muxd.control("POST", "/v1/reload").status_code == 200
        eventually(lambda: muxd.ask("far") == text and two.chats(), "the one that was added answers")
        muxd.config.write_text(written.replace(f'"unix:{first}"', f'"unix:{second}"'))
        assert muxd.control("POST", "/v1/reload").status_code == 200

        def only_the_second_answers() -> bool:
            before = one.chats(), two.chats()
            assert {muxd.ask("far") for _ in range(4)} == {text}
            return (one.chats(), two.chats()) == (before[0], before[1] + 4)

        eventually(only_the_second_answers, "the one that was removed gets nothing more")
        assert muxd.status("far")["pid"] == router


@pytest.mark.thorough
def test_a_server_of_several_data_parallel_ranks_is_removed_with_the_same_router_also_by_another_muxd(tmp_path, start):
    with contextlib.ExitStack() as stack:
        one, two = (Far(tmp_path, name, "--dp-size", "2") for name in ("one", "two"))
        for server in (one, two):
            stack.callback(server.close)
        table = REMOTE.replace('"round_robin"', '"round_robin", args = ["--dp-aware"]')
        both = json.dumps([one.url, two.url])
        muxd = start(table.format(urls=both, quick=QUICK))
        text = muxd.ask("far")
        eventually(lambda: muxd.ask("far") == text and one.chats() and two.chats(), "both answer")
        router, written = muxd.status("far")["pid"], muxd.config.read_text()

        def serve(*servers: Far) -> None:
            muxd.config.write_text(written.replace(both, json.dumps([each.url for each in servers])))
            assert muxd.control("POST", "/v1/reload").status_code == 200

        def answers_alone(server: Far, other: Far) -> bool:
            before = server.chats(), other.chats()
            assert {muxd.ask("far") for _ in range(4)} == {text}
            return (server.chats(), other.chats()) == (before[0] + 4, before[1])

        serve(two)
        eventually(lambda: answers_alone(two, one), "the one that was removed gets nothing more")
        serve(one, two)
        eventually(lambda: muxd.ask("far") == text and not answers_alone(two, one), "the one that was added answers")
        assert muxd.muxctl("upgrade").returncode == 0
        serve(one)
        eventually(lambda: answers_alone(one, two), "what an earlier muxd has added is removed")
        assert muxd.status("far")["pid"] == router


def test_prefill_and_decode_that_run_elsewhere_answer_and_of_a_half_that_is_gone_the_servers_are_named(servers, start):
    one, two = servers
    table = REMOTE.replace("urls = {urls}", 'prefill = ["{one} 8998"]\ndecode = ["{two}"]')
    muxd = start(table.format(one=one.url, two=two.url, quick=QUICK))
    text = muxd.ask("far")
    assert one.chats()
    assert two.chats()
    two.stop()
    eventually(lambda: note(muxd) == f"no answer from {two.url}", "the half that went is named")
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(muxd.ask, "far")
        eventually(lambda: muxd.status("far")["waiting"], "a request waits for it")
        two.start()
        assert answer.result() == text


@pytest.mark.thorough
def test_one_of_two_servers_that_prefill_dies_and_no_request_is_lost(servers, start, tmp_path):
    with contextlib.ExitStack() as stack:
        one, two = servers
        three, four = (stack.enter_context(contextlib.closing(Far(tmp_path, name))) for name in ("three", "four"))
        table = REMOTE.replace("urls = {urls}", f'prefill = ["{one.url}", "{two.url}"]\ndecode = {{urls}}')
        muxd = start(table.format(urls=json.dumps([three.url, four.url]), quick=QUICK))
        text = muxd.ask("far", max_tokens=20)
        eventually(lambda: muxd.ask("far") and one.chats() and two.chats(), "both prefill")

        def ask(number: int) -> str:
            if number == 20:
                one.stop()
            return muxd.ask("far", max_tokens=20)

        with ThreadPoolExecutor(8) as clients:
            assert set(clients.map(ask, range(120))) == {text}


class Provider(BaseHTTPRequestHandler):
    """OpenAI's routes below /api, for who shows the key, and no other route."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self._answer({"/api/v1/models": {"object": "list", "data": [{"id": "far-1"}, {"id": "far-2"}]}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": f"{body['model']} says hello"}
        self._answer({"/api/v1/chat/completions": {"choices": [{"index": 0, "message": message}]}})

    def _answer(self, known: dict[str, object]) -> None:
        is_let_in = self.headers.get("Authorization") == "Bearer of-the-provider"
        body = json.dumps(known.get(self.path, {}) if is_let_in else {}).encode()
        self.asked.append(self.path)
        self.send_response(200 if is_let_in and self.path in known else 404 if is_let_in else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_another_provider_with_a_key_and_openais_routes_alone_is_a_server_like_any_other(start, monkeypatch):
    monkeypatch.setenv("PROVIDER_KEY", "of-the-provider")
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as provider:
        threading.Thread(target=provider.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{provider.server_port}/api"
        muxd = start(
            f'[models.far-2]\nengine = "remote"\nurls = ["{url}"]\napi_key_env = "PROVIDER_KEY"\nexternal = true\n'
        )
        assert muxd.ask("far-2") == "far-2 says hello"
        provider.shutdown()
    assert set(Provider.asked) <= {"/api/v1/models", "/api/v1/chat/completions"}


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_server_with_a_certificate_is_asked_where_its_authority_is_named_and_nowhere_else(
    start, monkeypatch, tmp_path
):
    monkeypatch.setenv("PROVIDER_KEY", "of-the-provider")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    named = ("-subj", "/CN=far", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE")
    openssl("req", "-x509", *new, *named, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "far.key", "-out", "far.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as provider:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "far.pem", tmp_path / "far.key")
        provider.socket = context.wrap_socket(provider.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=provider.serve_forever, args=(0.05,), daemon=True).start()
        keys = f'engine = "remote"\nurls = ["https://127.0.0.1:{provider.server_port}/api"]\nexternal = true\n'
        keys += 'api_key_env = "PROVIDER_KEY"\npreload = true\n'
        router = f'router = {{ args = ["--ca-cert-paths", "{tmp_path}/ca.pem"] }}\n'
        muxd = start(f"[models.trusted]\n{keys}{router}[models.unknown]\n{keys}")
        assert muxd.ask("trusted") == "trusted says hello"
        eventually(lambda: "no answer from https://" in (muxd.status("unknown")["reason"] or ""), "it is not trusted")
        provider.shutdown()


@pytest.mark.thorough
def test_another_muxd_is_a_server_like_any_other(tmp_path):
    pretend = f'[models.far]\nengine = "simulator"\nsimulation = {{ {QUICK} }}\n'
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(Muxd(_folder(tmp_path, "peer"), pretend))
        front = stack.enter_context(
            Muxd(_folder(tmp_path, "front"), REMOTE.format(urls=json.dumps([peer.url]), quick=QUICK))
        )
        text = front.ask("far")
        assert peer.state("far") == "ready", "the question has woken it there"
        assert text == peer.ask("far")


def test_sglang_routers_command_line_gives_a_proxy_before_it(servers, tmp_path):
    one, two = servers
    port = free_port()
    argv = [sys.executable, "-m", "muxd", "router", "--worker-urls", one.url, two.url, "--policy", "round_robin"]
    homes = {name: str(tmp_path) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
    with (tmp_path / "muxd.log").open("wb") as log:
        muxd = subprocess.Popen([*argv, "--port", str(port)], env={**os.environ, **homes}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                body = {"model": "whatever", "messages": [{"role": "user", "content": "hello"}]}
                return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code == 200
            return False

        eventually(answers, "a request by any name is answered")
        eventually(lambda: answers() and one.chats() and two.chats(), "both servers answer")
        sampling = {"max_new_tokens": 2}
        answer = httpx.post(f"{url}/generate", json={"text": "hello", "sampling_params": sampling}, timeout=30)
        assert answer.status_code == 200, "a request that names none"
    finally:
        muxd.terminate()
        assert muxd.wait(30) == 0


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
