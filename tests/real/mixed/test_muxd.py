"""One endpoint, three engines that take turns on one GPU's place: real SGLang, real vLLM, and llama.cpp's own server.

SGLang sleeps at level 2, vLLM at level 1, llama.cpp by a command that freezes it.
"""

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd, assert_never_two_awake
from tests.real.openai import llama_cpu
from tests.real.sglang_cpu import CPU_ARGS as SGLANG_ARGS
from tests.real.sglang_cpu import CPU_ENV as SGLANG_ENV
from tests.real.sglang_cpu import server_processes
from tests.real.vllm.vllm_cpu import CPU_ARGS as VLLM_ARGS
from tests.real.vllm.vllm_cpu import CPU_ENV as VLLM_ENV
from tests.real.vllm.vllm_cpu import processes_of

#: A cold start takes 18 to 40 s of two shared cores; a request may wait for two of them and a switch.
DEADLINE = 300.0

CONFIG = """\
[defaults]
restart_limit = 99
probe_interval = "2s"
call_timeout = "20s"
[models.sglang]
python = "{sglang}/venv/bin/python"
model_path = "{sglang}/models/tiny-a"
args = {sglang_args}
env = {sglang_env}
sleep_level = 2
[models.vllm]
engine = "vllm"
python = "{vllm}/venv/bin/python"
model_path = "{vllm}/models/tiny-b"
args = {vllm_args}
env = {vllm_env}
sleep_level = 1
[models.llama]
engine = "openai"
model_path = "{llama}/models/tiny-a.gguf"
{command}
sleep = [{{ command = ["sh", "-c", "! test -e {broken}"] }}, {freeze}]
wake = [{{ command = ["sh", "-c", "! test -e {broken}"] }}, {thaw}]
"""

MODELS = ("sglang", "vllm", "llama")


def toml(table: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f'{key} = "{value}"' for key, value in table.items()) + " }"


@pytest.fixture(scope="module")
def muxd(
    sglang_home: Path, vllm_home: Path, llama_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Muxd]:
    """All three, for all tests of this file that leave them well."""
    folder = tmp_path_factory.mktemp("muxd")
    text = CONFIG.format(
        sglang=sglang_home,
        sglang_args=list(SGLANG_ARGS),
        sglang_env=toml(SGLANG_ENV),
        vllm=vllm_home,
        vllm_args=list(VLLM_ARGS),
        vllm_env=toml(VLLM_ENV),
        llama=llama_home,
        command=llama_cpu.command(llama_home),
        broken=folder / "broken",
        freeze=llama_cpu.FREEZE,
        thaw=llama_cpu.THAW,
    )
    with Muxd(folder, text, deadline=DEADLINE) as muxd:
        yield muxd
        muxd.stop()
        assert not list((folder / "state" / "workers").iterdir())


@pytest.fixture(scope="module")
def texts(muxd: Muxd) -> dict[str, str]:
    """What each model says when it was just loaded."""
    said = {model: muxd.ask(model, max_tokens=24) for model in MODELS}
    assert len(set(said.values())) == len(MODELS)
    assert all(said.values())
    return said


def processes(muxd: Muxd, model: str) -> dict[str, int]:
    """Every process of a model's server, by what it is."""
    pid = muxd.status(model)["pid"]
    if model == "vllm":
        return processes_of(pid)
    return {"server": pid} if model == "llama" else {role: each for each, role in server_processes(pid).items()}


def test_two_hundred_requests_of_sixteen_clients_are_each_answered_by_their_own_model(muxd, texts):
    def one(number: int) -> bool:
        model = MODELS[number % 3]
        return muxd.ask(model, stream=number % 2 == 0, max_tokens=24) == texts[model]

    pids = {model: muxd.status(model)["pid"] for model in MODELS}
    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(one, range(200))) == [True] * 200
    assert_never_two_awake(muxd.moves())
    assert {model: muxd.status(model)["pid"] for model in MODELS} == pids, "all of them slept and woke"
    woken = [model for model, before, after in muxd.moves() if (before, after) == ("waking", "ready")]
    assert set(woken) == set(MODELS)


def test_a_model_is_asked_for_what_its_engine_answers_and_for_nothing_else(muxd, texts):
    before = len(muxd.moves())
    for model, path in (
        ("vllm", "/generate"),
        ("sglang", "/pooling"),
        ("llama", "/generate"),
        ("sglang", "/v2/rerank"),
    ):
        refused = muxd.post(path, {"model": model, "text": "x", "input": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "route_not_found")
    assert len(muxd.moves()) == before, "nobody gave way"
    assert muxd.post("/generate", {"model": "sglang", "text": "x"}).status_code == 200
    assert muxd.post("/tokenize", {"model": "vllm", "prompt": "x"}).json()["count"]
    assert muxd.post("/tokenize", {"model": "llama", "content": "x"}).json()["tokens"]


@pytest.mark.parametrize("verb", ["sleep", "wake"])
def test_a_step_that_fails_costs_no_request(muxd, texts, verb):
    muxd.ask("llama")
    pid = muxd.status("llama")["pid"]
    if verb == "wake":
        muxd.ask("vllm")
    broken = muxd.folder / "broken"
    broken.touch()
    if verb == "sleep":
        assert muxd.ask("vllm", max_tokens=24) == texts["vllm"]
    assert muxd.ask("llama", max_tokens=24) == texts["llama"]
    broken.unlink()
    assert muxd.status("llama")["pid"] != pid
    assert pid not in muxd.processes()


@pytest.mark.long
@pytest.mark.parametrize("role", ["main_process", "scheduler", "detokenizer"])
def test_sglang_is_back_after_a_sigkill_of_any_of_its_processes(muxd, texts, role):
    back_after_sigkill(muxd, texts, "sglang", role)


@pytest.mark.long
@pytest.mark.parametrize("role", ["api_server", "engine_core", "worker"])
def test_vllm_is_back_after_a_sigkill_of_any_of_its_processes(muxd, texts, role):
    back_after_sigkill(muxd, texts, "vllm", role)


def test_llama_cpp_is_back_after_a_sigkill(muxd, texts):
    back_after_sigkill(muxd, texts, "llama", "server")


def back_after_sigkill(muxd: Muxd, texts: dict[str, str], model: str, role: str) -> None:
    """Kill one process of a model that serves; it and another one answer, and nothing of it is left."""
    muxd.ask(model)
    before = processes(muxd, model)
    os.kill(before[role], signal.SIGKILL)
    with ThreadPoolExecutor(2) as clients:
        other = next(each for each in MODELS if each != model)
        asked = [clients.submit(muxd.ask, name, max_tokens=24) for name in (model, other)]
        assert [answer.result() for answer in asked] == [texts[model], texts[other]]
    assert not set(before.values()) & set(muxd.processes())


@pytest.mark.long
@pytest.mark.parametrize(("model", "role"), [("sglang", "scheduler"), ("vllm", "engine_core")])
def test_a_wake_that_fails_is_a_start_from_nothing_and_costs_no_request(muxd, texts, model, role):
    muxd.ask(model)
    before = processes(muxd, model)
    assert muxd.ask("llama", max_tokens=24) == texts["llama"]
    assert muxd.state(model) == "asleep"
    os.kill(before[role], signal.SIGSTOP)
    assert muxd.ask(model, max_tokens=24) == texts[model]
    assert not set(before.values()) & set(muxd.processes())
