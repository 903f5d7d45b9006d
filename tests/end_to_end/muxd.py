"""A real `muxd start` for tests: asked over its proxy and its control socket, and seen to leave nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from muxd.control.answers import ModelAnswer, StatusAnswer
from muxd.saved_state import SavedState
from muxd.state_lines import decoded
from tests.as_answered import as_answered
from tests.ports import free_port

#: For what takes moments when all is well.
DEADLINE = 30.0

CONFIG = """\
[muxd]
socket = "{folder}/muxd.sock"
state_dir = "{folder}/state"
log_dir = "{folder}/logs"
shutdown_timeout = "5s"
{daemon}
[proxy]
listen = "127.0.0.1:{port}"
{proxy}
{models}
"""


def eventually(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The condition's value once it is true; fails by name at the deadline."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.04)
    raise AssertionError(f"not within {deadline:g} s: {what}")


class Muxd:
    """One muxd with a folder of its own; use it as a context."""

    _sessions: frozenset[int] = frozenset()  # of this muxd's processes, by their leaders

    def __init__(self, folder: Path, models: str, *, daemon: str = "", proxy: str = "", deadline: float = DEADLINE):
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.socket = folder / "muxd.sock"
        self.deadline = deadline
        self.config = folder / "muxd.toml"
        self.config.write_text(CONFIG.format(folder=folder, port=self.port, models=models, daemon=daemon, proxy=proxy))
        self._log = open(folder / "muxd.log", "ab")  # noqa: SIM115  closed in __exit__
        self._http = httpx.Client(timeout=deadline)
        self._control = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://muxd", timeout=deadline
        )
        self.process = self._run("start")

    def __enter__(self) -> "Muxd":
        try:
            self.until_up()
        except BaseException:  # nothing of it may be left for the tests that follow to stumble over
            self.kill()
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()
        self._control.close()
        try:
            if self.process.poll() is None:
                self.stop()
            eventually(lambda: not self.left_behind(), f"nothing left behind, but: {self.left_behind()}", 10)
        finally:
            self._log.close()
            self.sweep()

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "muxd", *words, "--config", str(self.config)]
        return subprocess.Popen(argv, stdout=self._log, stderr=self._log, cwd=self.folder)

    # Its life

    def until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, f"muxd ended with {self.process.returncode}:\n{self.log}"
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.socket)) != 0:
                    return False
            return self._control.get("/v1/version").status_code == 200

        eventually(is_up, f"muxd is up:\n{self.log}")

    def start_again(self) -> None:
        self.process = self._run("start")
        self.until_up()

    def start_proxy(self) -> subprocess.Popen[bytes]:
        """`muxd proxy`, for a configuration with `managed = false`."""
        proxy = self._run("proxy")
        eventually(lambda: self.health()["muxd"] == "connected", "the proxy is up")
        return proxy

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(self.deadline) == 0, self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def sweep(self) -> None:
        for pid in self.left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        return (self.folder / "muxd.log").read_text(errors="replace")

    def saved(self) -> SavedState:
        """What its state file has."""
        return decoded((self.folder / "state" / "state.json").read_bytes(), SavedState)[0]

    # Its processes

    def left_behind(self) -> dict[int, str]:
        """Every process of this muxd's but the test's own: pid -> command line."""
        return {pid: line for pid, line in self.processes().items() if pid != os.getpid()}

    def processes(self) -> dict[int, str]:
        """Every living process of this muxd's, by its command line, environment or folder: pid -> command line.

        A process title may have overwritten the first two; what has another folder is known by its session's leader.
        """
        mark, found = str(self.folder).encode(), {}
        for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            entry = Path(f"/proc/{pid}")
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"\nState:\tZ" in (entry / "status").read_bytes():
                    continue
                session = os.getsid(pid)
                told = line + (entry / "environ").read_bytes() + os.readlink(entry / "cwd").encode()
                if mark in told or session in self._sessions:
                    found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
                    if session == pid:
                        self._sessions |= {pid}
        return found

    def worker(self, model: str) -> dict[str, int]:
        """A worker's processes by what they are: "main_process", "scheduler", "detokenizer" -> pid."""
        main_process = self.status(model)["pid"]
        tree = {"main_process": main_process}
        for pid, line in self.processes().items():
            with suppress(OSError):
                name = line + Path(f"/proc/{pid}/comm").read_text()  # the kernel cuts it at 15 bytes
                if os.getsid(pid) == main_process:
                    tree |= {role: pid for role in ("scheduler", "detokenizer") if f"::{role[:7]}" in name}
        return tree

    # Asking the proxy

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        try:
            return self._http.post(self.url + path, json=body, headers=headers)
        except httpx.TimeoutException as error:
            error.add_note(f"the end of muxd's log:\n{self.log[-3000:]}")  # where it says why nobody answered
            raise

    def get(self, path: str) -> httpx.Response:
        return self._http.get(self.url + path)

    def health(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._http.get(f"{self.url}/health").json()
        except httpx.HTTPError:
            return {"muxd": "no proxy"}
        return answer

    def ask(self, model: str, prompt: str = "hello", *, stream: bool = False, **fields: Any) -> str:
        """What the model says, by chat completion at temperature 0; any other answer than 200 fails."""
        body = chat_body(model, prompt, **fields)
        if stream:
            with self._http.stream("POST", f"{self.url}/v1/chat/completions", json=body | {"stream": True}) as answer:
                assert answer.status_code == 200, answer.read()
                return streamed_text(answer.iter_lines())
        answer = self.post("/v1/chat/completions", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    @contextmanager
    def stream(self, model: str, **fields: Any) -> Iterator[Iterator[str]]:
        """The lines of a streamed chat, while it is open."""
        body = chat_body(model, "hello", stream=True, **fields)
        with self._http.stream("POST", f"{self.url}/v1/chat/completions", json=body) as answer:
            yield answer.iter_lines()

    # Asking the supervisor

    def status(self, model: str | None = None) -> Any:
        answer = self._control.get("/v1/status" if model is None else f"/v1/models/{model}")
        assert answer.status_code == 200, answer.text
        return as_answered(answer.json(), StatusAnswer if model is None else ModelAnswer)

    def state(self, model: str) -> str:
        return str(self.status(model)["state"])

    def until_state(self, model: str, *states: str) -> None:
        eventually(lambda: self.state(model) in states, f"{model} is {' or '.join(states)}", self.deadline)

    def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._control.request(method, path, json=body or {})

    def switch(self, model: str) -> dict[str, Any]:
        """An operator's switch, watched to its end: its last line."""
        with self._control.stream("POST", f"/v1/models/{model}/switch") as lines:
            return [json.loads(line) for line in lines.iter_lines()][-1]

    def moves(self) -> list[tuple[str, str, str]]:
        """Every state change since this muxd began: model, from, to."""
        lines = self._control.get("/v1/events?after=0&follow=0").text.splitlines()
        events = [json.loads(line) for line in lines]
        begun = max((n for n, event in enumerate(events) if event["type"] == "muxd_started"), default=0)
        return [(e["model"], e["from"], e["to"]) for e in events[begun:] if e["type"] == "state"]

    def muxctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "muxctl", "--socket", str(self.socket), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=self.deadline, check=False)


def chat_body(model: str, prompt: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **fields}


def streamed_text(lines: Iterator[str]) -> str:
    """The text of an SSE stream, which must end as it should; what it is told while it waits is a comment."""
    events = [line.removeprefix("data: ") for line in lines if line and not line.startswith(": muxd: ")]
    assert events.pop() == "[DONE]", f"the stream was cut after {events[-1:]}"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def until_cut(lines: Iterator[str]) -> list[str]:
    """What comes of a stream that does not end as it should."""
    seen: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        seen.extend(lines)
    return seen


ON_GPU = {"starting", "ready", "draining", "falling_asleep", "waking"}


def assert_never_two_awake(moves: list[tuple[str, str, str]]) -> None:
    """By the journal: whenever one came to the GPU, no other was on it."""
    states: dict[str, str] = {}
    for model, before, after in moves:
        assert states.get(model, before) == before, f"{model}: {states.get(model)} is not {before}"
        states[model] = after
        awake = [name for name, state in states.items() if state in ON_GPU]
        assert len(awake) <= 1, f"{awake} after {model}: {before} -> {after}"
