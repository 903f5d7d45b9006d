"""What muxd and its simulator take for granted about SGLang, asked of one real server.

The last test ends the server; the others leave it serving.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.real.sglang_cpu import (
    CPU_ARGS,
    CPU_ENV,
    command_line,
    environment,
    eventually,
    kill_server,
    server_processes,
    shared_memory_of,
)

API_KEY, ADMIN_KEY = "api-key-of-a-test", "admin-key-of-a-test"
SECRETS = f"api-key: {API_KEY}\nadmin-api-key: {ADMIN_KEY}\n"
EVERYTHING = {"tags": ["kv_cache", "weights"]}
CRASH_AT_ONCE = {"SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"}
KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}  # setproctitle otherwise writes titles over it


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass
class Server:
    """A running server, its main process, and where it writes."""

    main_process: subprocess.Popen[bytes]
    model_path: Path
    log: Path
    http: httpx.Client
    shared_memory: set[Path] = field(default_factory=set)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path, headers=bearer(API_KEY))

    def control(self, path: str, body: dict[str, object]) -> httpx.Response:
        return self.http.post(path, json=body, headers=bearer(ADMIN_KEY))

    def command(self, path: str, body: dict[str, object]) -> None:
        answer = self.control(path, body)
        assert answer.status_code == 200, answer.text

    def complete(self, tokens: int = 16) -> dict:
        body = {"prompt": "hello", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = self.http.post("/v1/completions", json=body, headers=bearer(API_KEY))
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def text(self) -> str:
        return self.complete()["text"]

    def ready(self) -> bool:
        assert self.main_process.poll() is None, self.log.read_text()[-4000:]
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def load(self) -> dict:
        (load,) = self.get("/v1/loads").json()["loads"]
        return load


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port that is held for the server: bound here, listened on there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def server(sglang_home: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """tiny-a with the memory saver, weights discarded when it sleeps (level 2)."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "tmp").mkdir()
    secrets = folder / "secrets.yaml"
    secrets.touch(mode=0o600)
    secrets.write_text(SECRETS)
    model_path = sglang_home / "models" / "tiny-a"
    argv = [sglang_home / "venv" / "bin" / "python", "-m", "sglang.launch_server", "--model-path", model_path]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--config", secrets, "--enable-memory-saver", *CPU_ARGS]
    env = {**os.environ, **CPU_ENV, **CRASH_AT_ONCE, **KEEP_ENVIRONMENT, "TMPDIR": str(folder / "tmp"), "MARK": "x"}
    log = folder / "server.log"
    with log.open("wb") as out, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
        main_process = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            server = Server(main_process, model_path, log, http)
            eventually(server.ready, 150, "the server is ready")
            server.shared_memory = shared_memory_of(main_process.pid)
            yield server
        finally:
            kill_server(main_process.pid)
            main_process.wait(30)


def test_every_process_stays_in_the_main_processes_session_and_keeps_its_environment(server: Server) -> None:
    processes = server_processes(server.main_process.pid)
    assert sorted(processes.values()) == ["detokenizer", "main_process", "resource_tracker", "scheduler"]
    assert all(environment(pid)["MARK"] == "x" for pid in processes)


def test_the_keys_are_in_no_command_line(server: Server) -> None:
    lines = [command_line(pid) for pid in server_processes(server.main_process.pid)]
    assert not [line for line in lines if API_KEY in line or ADMIN_KEY in line]


def test_the_keys_are_in_the_log(server: Server) -> None:
    assert ADMIN_KEY in server.log.read_text()


def test_the_admin_key_opens_the_controls_only_and_the_api_key_the_rest(server: Server) -> None:
    for path in (
        "/pause_generation",
        "/continue_generation",
        "/release_memory_occupation",
        "/update_weights_from_disk",
    ):
        assert server.http.post(path, json={}, headers=bearer(API_KEY)).status_code == 401
        assert server.http.post(path, json={}).status_code == 401
    for path in ("/ping", "/v1/models", "/v1/loads", "/server_info"):
        assert server.http.get(path).status_code == 401
        assert server.http.get(path, headers=bearer(ADMIN_KEY)).status_code == 401
        assert server.get(path).status_code == 200
    assert server.http.get("/ready").status_code == 200


def test_server_info_tells_the_admin_key_to_whoever_has_the_api_key(server: Server) -> None:
    assert server.get("/server_info").json()["admin_api_key"] == ADMIN_KEY


def test_control_calls_without_a_json_body_are_refused(server: Server) -> None:
    for path in ("/release_memory_occupation", "/resume_memory_occupation", "/pause_generation"):
        assert server.http.post(path, headers=bearer(ADMIN_KEY)).status_code == 400
    assert server.ready()


def test_a_paused_server_is_alive_but_not_ready(server: Server) -> None:
    server.command("/pause_generation", {"mode": "abort"})
    assert server.http.get("/ready").status_code == 503
    assert server.get("/ping").status_code == 200
    server.command("/continue_generation", {})
    assert server.http.get("/ready").status_code == 200


def test_an_aborting_pause_ends_requests_with_partial_text_and_answers_when_idle(server: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(server.complete, 4000)
        eventually(lambda: server.load()["num_running_reqs"], 30, "the request runs")
        server.command("/pause_generation", {"mode": "abort"})
        assert server.load()["num_running_reqs"] == 0
        assert request.result(30)["finish_reason"] == "abort"
    server.command("/continue_generation", {})


def test_a_request_sent_during_a_pause_is_held_unseen_and_answered_after_it(server: Server) -> None:
    server.command("/pause_generation", {"mode": "abort"})
    paused = server.load()["timestamp"]
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(server.complete)
        load = eventually(lambda: newer(server.load(), paused), 30, "a new load report")
        assert (load["num_running_reqs"], load["num_waiting_reqs"]) == (0, 0)
        assert not request.done()
        server.command("/release_memory_occupation", {"tags": ["kv_cache"]})
        server.command("/resume_memory_occupation", {"tags": ["kv_cache"]})
        server.command("/continue_generation", {})
        assert request.result(30)["finish_reason"] == "length"


def newer(load: dict, than: float) -> dict | None:
    """A report is a snapshot of its `timestamp`, not of now; an idle scheduler writes one each second."""
    return load if load["timestamp"] > than else None


def test_releasing_the_kv_cache_alone_changes_no_answer(server: Server) -> None:
    before = server.text()
    server.command("/pause_generation", {"mode": "abort"})
    server.command("/release_memory_occupation", {"tags": ["kv_cache"]})
    server.command("/resume_memory_occupation", {"tags": ["kv_cache"]})
    server.command("/continue_generation", {})
    assert server.text() == before


def test_discarded_weights_are_garbage_until_they_are_reloaded(server: Server) -> None:
    before = server.text()
    server.command("/pause_generation", {"mode": "abort"})
    server.command("/release_memory_occupation", EVERYTHING)
    server.command("/resume_memory_occupation", EVERYTHING)
    server.command("/continue_generation", {})
    assert server.text() != before
    server.command("/pause_generation", {"mode": "abort"})
    server.command("/update_weights_from_disk", {"model_path": str(server.model_path)})
    server.command("/continue_generation", {})
    assert server.text() == before


def test_a_reload_from_a_missing_path_is_refused_and_the_server_lives_on(server: Server) -> None:
    answer = server.control("/update_weights_from_disk", {"model_path": "/does/not/exist"})
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert server.text()


def test_a_second_release_kills_the_server_and_leaves_its_shared_memory(server: Server) -> None:
    server.command("/pause_generation", {"mode": "abort"})
    server.command("/release_memory_occupation", EVERYTHING)
    with pytest.raises(httpx.TransportError):
        server.control("/release_memory_occupation", EVERYTHING)
    assert server.main_process.wait(30) == -9
    eventually(lambda: not server_processes(server.main_process.pid), 30, "every process is gone")
    assert [path.name.partition("_")[0] for path in server.shared_memory] == ["sglang"]
    for leftover in server.shared_memory:
        leftover.unlink()
