"""Real simulators for tests: started, asked, watched, and swept whatever becomes of them."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

DEADLINE = 15.0
PACE = 0.02


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a true value; fails by name at the deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {DEADLINE:.0f} s: {what}")


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def said(self) -> str:
        """What the model said, by chat."""
        return str(self.json["choices"][0]["message"]["content"])


class Simulator:
    """One server process tree; found again by its TMPDIR, whatever sessions its processes are in."""

    def __init__(self, tmp: Path, flags: tuple[str, ...], env: dict[str, str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.tmp = tmp
        self.log = tmp.with_suffix(".log")
        tmp.mkdir()
        argv = [sys.executable, "-m", "muxd.simulator", "--model-path", "some/model", "--port", str(port)]
        argv += ["--load-time", "0", "--sleep-time", "0", "--wake-time", "0", "--pace", str(PACE), *flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(tmp), **env},
                start_new_session=True,
            )

    def until_ready(self) -> "Simulator":
        eventually(self._is_ready, f"ready; its log:\n{self.output}")
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str, key: str | None = None, timeout: float = DEADLINE) -> Answer:
        return self._ask("GET", path, None, key, timeout)

    def post(self, path: str, body: Any = None, key: str | None = None, timeout: float = DEADLINE) -> Answer:
        return self._ask("POST", path, body, key, timeout)

    def _ask(self, method: str, path: str, body: Any, key: str | None, timeout: float) -> Answer:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def chat(self, prompt: str = "hello", **fields: Any) -> Answer:
        message = {"role": "user", "content": prompt}
        return self.post("/v1/chat/completions", {"model": "m", "messages": [message], "temperature": 0, **fields})

    def says(self, prompt: str = "hello") -> str:
        return self.chat(prompt, max_tokens=8).said

    def loads(self) -> tuple[int, int]:
        """Requests running and waiting."""
        load = self.get("/v1/loads").json["loads"][0]
        return load["num_running_reqs"], load["num_waiting_reqs"]

    def open_stream(self, timeout: float = DEADLINE, **fields: Any) -> "Stream":
        """Of a chat; its head comes with its first token, or httpx.ReadTimeout does."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
        return Stream(f"{self.url}/v1/chat/completions", {**asked, **fields}, timeout)

    def open_generation(self, **sampling: Any) -> "Stream":
        """Of SGLang's own /generate, whose head comes before there is a token."""
        return Stream(f"{self.url}/generate", {"text": "hello", "sampling_params": sampling})

    def ended(self) -> int:
        """Wait for the main process's end; its status, negative for a signal."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive:\n{self.output}") from None

    def pids(self, comm: str | None = None) -> list[int]:
        """Its live processes, or those of them that have this name."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_mine(pid, comm)]

    def pid(self, comm: str) -> int:
        (pid,) = self.pids(comm)
        return pid

    def _is_mine(self, pid: int, comm: str | None) -> bool:
        proc = Path("/proc") / str(pid)
        try:
            mine = f"TMPDIR={self.tmp}".encode() in (proc / "environ").read_bytes().split(b"\0")
            return mine and comm in (None, (proc / "comm").read_text().strip())
        except OSError:
            return False

    def sweep(self) -> None:
        """Kill what is left of it."""
        while left := self.pids():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait(DEADLINE)


class Stream:
    """An open stream, read event by event."""

    def __init__(self, url: str, fields: dict[str, Any], timeout: float = DEADLINE) -> None:
        self._client = httpx.Client(timeout=timeout)
        request = self._client.build_request("POST", url, json={"stream": True, **fields})
        self._response = self._client.send(request, stream=True)
        self._lines = self._response.iter_lines()

    def next(self) -> Any:
        """The next event; the string [DONE] at the end, None after it."""
        for line in self._lines:
            if line:
                return line[6:] if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
        return None

    def rest(self) -> list[Any]:
        return list(iter(self.next, None))

    def close(self) -> None:
        self._response.close()
        self._client.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
