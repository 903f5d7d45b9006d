"""The console of a real muxd over HTTP: its page, its doors, and what it passes on."""

import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually
from tests.ports import free_port
from tests.seeds import thorough

from .console import OWN, Console

LARGEST = 120 << 10  # bytes of the whole page as it is sent


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    port = free_port()
    models = f'[ui]\nlisten = "127.0.0.1:{port}"\n{two_models()}'
    with Muxd(tmp_path_factory.mktemp("console"), models) as muxd, Console(muxd, port) as console:
        yield console


@pytest.fixture(autouse=True)
def no_session(console):
    console.http.cookies.clear()


def test_the_page_is_small_and_runs_nothing_of_others(console):
    page = console.http.get("/ui/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"https?://|<script>|\son\w+=|style=", page.text)
    names = {path.name for path in (Path(__file__).parents[2] / "muxd/ui/static").iterdir()}
    sent = 0
    for name in names:
        answer = console.http.get(f"/ui/{name}")
        assert answer.status_code == 200
        sent += int(answer.headers["content-length"])
    assert sent <= LARGEST


def test_a_file_that_a_browser_has_is_not_sent_again(console):
    tag = console.http.get("/ui/app.js").headers["etag"]
    again = console.http.get("/ui/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_the_page_is_found_from_its_address(console, path):
    assert console.http.get(path).headers["location"] == "/ui/"


@pytest.mark.parametrize(
    "path", ["/ui/../app.py", "/ui/nothing.js", "/ui/api/nothing", "/v1/models", "/ui/api/models/"]
)
def test_there_is_nothing_else(console, path):
    assert console.http.get(path).status_code == 404


def test_a_guest_sees_and_does_nothing(console):
    assert console.http.get("/ui/api/me").json() == {"level": "guest", "name": ""}
    assert console.http.get("/ui/api/status").status_code == 200
    for answer in (
        console.http.get("/ui/api/models/alpha/logs"),
        console.http.get("/ui/api/requests"),
        console.http.get("/ui/api/keys"),
        console.post("models/alpha/switch"),
        console.post("reload", {"dry_run": True}),
    ):
        assert answer.status_code == 401, answer.text
    assert console.muxd.state("alpha") == "unloaded"


def test_a_link_opens_it_once(console):
    link = console.muxd.muxctl("ui").stdout.strip()
    with httpx.Client() as first, httpx.Client() as second:
        assert first.get(link).status_code == 303
        assert first.get(f"{console.url}/ui/api/me").json()["level"] == "admin"
        assert second.get(link).json()["error"]["code"] == "link_used"


def test_an_operator_orders_what_muxctl_orders(console):
    console.log_in()
    assert console.post("models/alpha/switch").status_code == 202
    console.muxd.until_state("alpha", "ready")
    assert console.post("models/org%2Falpha/sleep", {"level": 1}).status_code == 202
    console.muxd.until_state("alpha", "asleep")
    refused = console.post("models/gamma/switch")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    wrong = console.post("models/alpha/switch", {"fast": True})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "bad_request")


def test_an_order_from_another_site_is_none(console):
    console.log_in()
    answer = console.http.post("/ui/api/models/alpha/stop", json={})
    assert answer.status_code == 403
    assert console.post("models/alpha/stop", origin="http://evil.example").status_code == 403
    assert console.http.get("/ui/", headers={"host": "evil.example"}).status_code == 403


def test_what_happens_is_told_as_it_happens(console):
    with console.live() as told:
        kind, data = next(told)
        assert kind == "snapshot"
        assert [model["name"] for model in data["status"]["models"]] == ["alpha", "beta"]
        console.muxd.ask("beta")
        moves = []
        for kind, data in told:
            if kind == "event" and data["type"] == "state" and data["model"] == "beta":
                moves.append(data["to"])
                if data["to"] == "ready":
                    break
        assert moves[-1] == "ready"


def test_a_log_is_an_operators(console):
    console.log_in()
    console.muxd.ask("alpha")
    answer = console.http.get("/ui/api/models/alpha/logs?lines=20")
    assert answer.status_code == 200
    assert "alpha" in answer.text


def test_an_open_log_ends_with_its_session(console):
    console.log_in()
    with console.http.stream("GET", "/ui/api/models/alpha/logs?follow=true") as log:
        assert log.status_code == 200
        assert console.post("logout").json()["level"] == "none"
        console.muxd.ask("alpha")
        with pytest.raises(httpx.RemoteProtocolError):
            log.read()


def test_an_answer_that_never_ends_is_not_waited_for(console):
    console.log_in()
    assert console.http.get("/ui/api/requests?follow=true").status_code == 400


def test_a_chat_goes_through_the_proxy(console):
    body = {"model": "alpha", "stream": True, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    with console.http.stream("POST", "/ui/api/chat", json=body, headers=OWN) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    refused = console.post("chat", {"model": "gamma", "messages": []})
    assert refused.status_code == 404
    assert "gamma" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["models/alpha/switch", "reload", "keys/add", "login"])
@pytest.mark.parametrize("body", [[1], *thorough("words", 1)])
def test_a_body_that_is_no_object_is_refused(console, path, body):
    console.log_in()
    answer = console.post(path, body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the body is no JSON object")


@pytest.mark.parametrize("body", [{"name": "a\0b"}, {"name": "ann", "expires": "1d\0"}, {"name": "ann", "models": [1]}])
def test_words_that_no_key_can_have_are_refused(console, body):
    console.log_in()
    assert console.post("keys/add", body).status_code == 400


def test_what_no_page_sends_ends_nobodys_console(console):
    before = _pid(console)
    chat = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = httpx.Headers(OWN | {"x-api-key": "schl\xfcssel"}, encoding="latin-1")
    assert console.http.post("/ui/api/chat", json=chat, headers=headers).status_code == 200
    with socket.create_connection(("127.0.0.1", console.http.base_url.port)) as stranger:
        stranger.sendall(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert stranger.recv(65536).startswith(b"HTTP/1.1 404 ")
    assert _pid(console) == before


def _pid(console):
    lines = console.muxd.processes().items()
    return next((pid for pid, line in lines if " ui --config" in line and " -m muxd " in line), 0)


def test_a_console_that_is_killed_is_back_and_muxd_goes_on(console):
    before = _pid(console)
    assert before
    os.kill(before, signal.SIGKILL)
    eventually(lambda: _pid(console) not in (0, before) and console.is_up(), "the console is back")
    console.muxd.ask("alpha")


def test_without_a_place_to_listen_the_verb_says_what_to_write(tmp_path):
    with Muxd(tmp_path, two_models()) as muxd:
        said = muxd.muxctl("ui")
        assert said.returncode == 3
        assert 'write listen = "127.0.0.1:30102" under [ui]' in said.stderr


@pytest.fixture
def without_keys(console):
    """Take all keys away again."""
    yield
    (console.muxd.folder / "muxd.d/keys.toml").unlink()
    assert console.muxd.muxctl("reload").returncode == 0


def test_keys_are_made_and_revoked_there(console, without_keys):
    console.log_in()
    made = console.post("keys/add", {"name": "ann", "models": ["alpha"], "requests_per_minute": 60}).json()
    assert made["secret"].startswith("muxd-")
    (row,) = console.http.get("/ui/api/keys").json()["keys"]
    assert (row["name"], row["models"], row["requests_per_minute"]) == ("ann", ["alpha"], 60)
    assert console.muxd.post("/v1/chat/completions", {"model": "alpha", "messages": []}).status_code == 401
    twice = console.post("keys/add", {"name": "ann"})
    assert twice.status_code == 400
    assert "there is a key ann already" in twice.json()["error"]["message"]
    wrong = console.post("keys/add", {"name": "--help"})
    assert wrong.status_code == 400
    assert console.post("keys/ann/revoke").json()["revoked"]
    assert console.http.get("/ui/api/keys").json()["keys"][0]["state"] == "revoked"
