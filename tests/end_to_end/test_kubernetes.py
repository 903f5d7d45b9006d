"""Pods of a cluster behind the real sglang-router, which finds them by itself: they come, go, and are missed.

The pods are simulated servers on addresses of loopback; tests/end_to_end/api_server.py tells of them.
"""

import contextlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
import yaml

from tests.ports import free_port

from .api_server import ApiServer
from .conftest import QUICK
from .muxd import Muxd, chat_body, eventually

MODEL = """\
[models.qwen]
engine = "remote"
port = {router}
discovery = {{ {selectors}, namespace = "llm", port = {port} }}
env = {{ KUBECONFIG = "{kubeconfig}" }}
probe_interval = "200ms"
probe_failures = 1
restart_limit = {restart_limit}
start_timeout = "{start_timeout}"
preload = true
router = {{ policy = "round_robin" }}
"""

QWEN = {"app": "qwen"}

FRONT = Path(__file__).parents[2] / "conf/kubernetes/front.yaml"


class Pods:
    """Simulated servers, each at an address of its own, all at one port."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.port = free_port()
        self._folder = folder
        self.addresses = {name: f"127.0.0.{number}" for number, name in enumerate(names, 2)}
        self._processes = {name: self._start(name) for name in names}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "muxd.simulator", "--host", self.addresses[name], "--port", str(self.port)]
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                [*argv, "--model-path", "qwen", "--load-time", "0.1", "--pace", "0.02"], stdout=log, stderr=log
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"pod-{name}.log"

    def chats(self, name: str) -> int:
        return self._log(name).read_text().count("/v1/chat/completions")

    def url(self, name: str) -> str:
        return f"http://{self.addresses[name]}:{self.port}"

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def close(self) -> None:
        for name in self.addresses:
            self.kill(name)


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        yield api


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with contextlib.closing(Pods(tmp_path, "one", "two")) as pods:
        yield pods


@pytest.fixture
def model(api: ApiServer, pods: Pods, tmp_path: Path) -> Callable[..., str]:
    def table(start_timeout: str = "1min", restart_limit: int = 99, **selectors: dict[str, str]) -> str:
        shown = []
        for key, labels in (selectors or {"selector": QWEN}).items():
            shown.append(f"{key} = {{ {', '.join(f'{name} = {json.dumps(text)}' for name, text in labels.items())} }}")
        return MODEL.format(
            selectors=", ".join(shown),
            port=pods.port,
            router=free_port(),
            kubeconfig=api.kubeconfig(tmp_path),
            start_timeout=start_timeout,
            restart_limit=restart_limit,
        )

    return table


def listed(muxd: Muxd) -> dict[str, dict[str, Any]]:
    """What the router says of the pods that are healthy, by their URLs."""
    port = tomllib.loads(muxd.config.read_text())["models"]["qwen"]["port"]
    workers = httpx.get(f"http://127.0.0.1:{port}/workers").json()["workers"]
    return {worker["url"]: worker for worker in workers if worker["is_healthy"]}


def log_of_router(muxd: Muxd) -> str:
    return "".join(file.read_text() for file in (muxd.folder / "logs").glob("qwen.std*.log"))


def test_pods_come_and_go_and_no_request_is_lost(api, pods, model, start):
    api.put("one", pods.addresses["one"], QWEN)
    api.put("other", "127.0.0.9", {"app": "other"})
    muxd = start(model())
    text = muxd.ask("qwen")
    api.put("two", pods.addresses["two"], QWEN, ready=False)
    api.put("two", pods.addresses["two"], QWEN)
    eventually(lambda: muxd.ask("qwen") == text and pods.chats("one") and pods.chats("two"), "both answer")
    with ThreadPoolExecutor(4) as clients:
        answers = [clients.submit(muxd.ask, "qwen") for _ in range(20)]
        api.terminate("one")
        eventually(lambda: listed(muxd).keys() == {pods.url("two")}, "the one that ends gets no more requests")
        assert {answer.result() for answer in answers} == {text}
    pods.kill("one")
    api.delete("one")
    seen = pods.chats("two")
    assert [muxd.ask("qwen") for _ in range(4)] == [text] * 4
    assert pods.chats("two") == seen + 4
    assert muxd.state("qwen") == "ready"
    assert set(api.asked) == {"/api/v1/namespaces/llm/pods", "watch /api/v1/namespaces/llm/pods"}


@pytest.mark.thorough
def test_while_no_pod_is_left_a_request_waits_and_is_answered_by_the_next_one(api, pods, model, start):
    api.put("one", pods.addresses["one"], QWEN)
    muxd = start(model())
    text = muxd.ask("qwen")
    api.terminate("one")
    api.delete("one")
    eventually(lambda: muxd.state("qwen") != "ready", "muxd sees that nobody is left")
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(muxd.ask, "qwen")
        eventually(lambda: muxd.status("qwen")["waiting"], "the request waits")
        api.put("two", pods.addresses["two"], QWEN)
        assert answer.result() == text
    assert pods.chats("two") == 1


@pytest.mark.thorough
def test_a_watch_that_ends_is_taken_up_where_it_was(api, pods, model, start):
    api.put("one", pods.addresses["one"], QWEN)
    muxd = start(model())
    text = muxd.ask("qwen")
    eventually(lambda: api.asked[-1].startswith("watch "), "the router watches")
    before = len(api.asked)
    api.end_watches()
    api.put("two", pods.addresses["two"], QWEN)
    eventually(lambda: len(listed(muxd)) == 2, "the one that came in the gap is known")
    api.end_watches()
    api.terminate("one")
    eventually(lambda: listed(muxd).keys() == {pods.url("two")}, "and so is the end of the other")
    assert muxd.ask("qwen") == text
    assert {path.partition(" ")[0] for path in api.asked[before:]} == {"watch"}, "nothing is listed again"


@pytest.mark.thorough
def test_without_its_api_server_the_router_keeps_the_pods_that_it_knows(api, pods, model, start):
    for name, address in pods.addresses.items():
        api.put(name, address, QWEN)
    muxd = start(model())
    text = muxd.ask("qwen")
    eventually(lambda: len(listed(muxd)) == 2, "both are there")
    api.stop()
    eventually(lambda: "Error in Kubernetes watcher" in log_of_router(muxd), "its log says that nobody tells of pods")
    assert {muxd.ask("qwen") for _ in range(4)} == {text}
    pods.kill("one")
    assert {muxd.ask("qwen") for _ in range(4)} == {text}, "one that dies is told from the others all the same"
    eventually(lambda: listed(muxd).keys() == {pods.url("two")}, "it is found by the router's own checks")
    assert muxd.state("qwen") == "ready"


@pytest.mark.thorough
def test_changes_that_are_forgotten_cost_no_pod_that_is_known(api, pods, model, start):
    api.put("one", pods.addresses["one"], QWEN)
    muxd = start(model())
    text = muxd.ask("qwen")
    api.put("late", "127.0.0.9", {"app": "other"})
    api.expire()
    api.end_watches()
    eventually(lambda: "too old resource version" in log_of_router(muxd), "the router is told to list again")
    assert {muxd.ask("qwen") for _ in range(4)} == {text}


def why_it_failed(muxd: Muxd, word: str) -> str:
    """The reason of a start that failed once it has this word; a router that came up too late has others."""

    def reason() -> str:
        ended = muxd.status("qwen")["last_exit"] or {}
        return str(ended["reason"]) if word in ended.get("reason", "") else ""

    return str(eventually(reason, f"it fails, and says {word}", 60))


def notices(muxd: Muxd) -> list[tuple[str, bool]]:
    """What muxd's events have of what is to be mended: the text, and whether that is over."""
    lines = muxd.control("GET", "/v1/events?after=0&follow=0&type=notice").text.splitlines()
    return [(event["notice"], event.get("over", False)) for event in map(json.loads, lines)]


def test_labels_that_no_pod_has_are_named_as_soon_as_the_router_has_looked_and_until_there_is_one(
    api, pods, model, start
):
    api.put("one", pods.addresses["one"], {"app": "gwen"})
    muxd = start(model())
    text = f"its router found no pod with app=qwen in namespace llm that is Ready and answers at port {pods.port}"
    eventually(lambda: muxd.status("qwen")["reason"] == text, "status says which labels")
    assert muxd.state("qwen") == "starting"
    eventually(lambda: notices(muxd) == [(text, False)], "so do the events")
    api.put("one", pods.addresses["one"], QWEN)
    muxd.until_state("qwen", "ready")
    eventually(lambda: notices(muxd) == [(text, False), (text, True)], "and that it is over")
    assert muxd.status("qwen")["reason"] is None
    api.stop()
    eventually(lambda: "its router cannot watch pods: " in (muxd.status("qwen")["reason"] or ""), "it is told")
    assert muxd.status("qwen")["reason"].endswith("; the pods that are known serve on")
    assert muxd.ask("qwen")


@pytest.mark.thorough
def test_the_half_for_which_there_is_no_pod_is_named_and_the_other_beside_it(api, pods, model, start):
    api.put("two", pods.addresses["two"], {"role": "decode"})
    muxd = start(model(prefill_selector={"role": "prefill"}, decode_selector={"role": "decode"}))
    said = f"no pod with role=prefill in namespace llm that is Ready and answers at port {pods.port}"
    eventually(lambda: said in (muxd.status("qwen")["reason"] or ""), "the half without a pod is named")
    eventually(lambda: muxd.status("qwen")["reason"].endswith(f"; {pods.url('two')} cannot serve alone"), "the other")


@pytest.mark.thorough
def test_labels_that_no_pod_has_are_named(api, pods, model, start):
    api.put("one", pods.addresses["one"], {"app": "gwen"})
    api.put("loading", pods.addresses["two"], QWEN, ready=False)
    muxd = start(model("5s", 1))
    reason = why_it_failed(muxd, "app=qwen")
    assert f"no pod with app=qwen in namespace llm that is Ready and answers at port {pods.port}" in reason
    assert "compare discovery with the labels of the pods" in reason
    answer = muxd.post("/v1/chat/completions", chat_body("qwen", "hello"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "remote_silent")


@pytest.mark.thorough
def test_an_api_server_that_cannot_be_reached_is_named(api, model, start):
    table = model("5s")
    api.stop()
    reason = why_it_failed(start(table), "cannot watch pods")
    assert "client error (Connect)" in reason
    assert "correct KUBECONFIG" in reason


@pytest.mark.thorough
def test_prefill_and_decode_are_found_by_selectors_of_their_own(api, pods, model, start):
    muxd = start(model(prefill_selector={"role": "prefill"}, decode_selector={"role": "decode"}))
    api.put("one", pods.addresses["one"], {"role": "prefill"}, bootstrap_port="8998")
    api.put("two", pods.addresses["two"], {"role": "decode"})
    muxd.until_state("qwen", "ready")
    found = {url: (worker["worker_type"], worker.get("bootstrap_port")) for url, worker in listed(muxd).items()}
    assert found == {pods.url("one"): ("prefill", 8998), pods.url("two"): ("decode", None)}


def test_the_front_of_conf_kubernetes_passes_any_name_on_to_the_muxd_of_a_node(api, tmp_path):
    text = next(yaml.safe_load_all(FRONT.read_text()))["data"]["muxd.toml"]
    table = tomllib.loads(text)["models"]
    api.put("node", "127.0.0.1", table["nodes"]["discovery"]["selector"])
    folders = {name: tmp_path / name for name in ("node", "front")}
    for folder in folders.values():
        folder.mkdir()
    simulated = f'[models.qwen]\nengine = "simulator"\nserved_names = ["org/qwen"]\nsimulation = {{ {QUICK} }}\n'
    with Muxd(folders["node"], simulated) as node:
        table["nodes"]["discovery"] |= {"port": node.port, "namespace": "llm"}
        table["nodes"]["env"] = {"KUBECONFIG": str(api.kubeconfig(tmp_path))}
        with Muxd(folders["front"], tomli_w.dumps({"models": table})) as front:
            assert front.ask("org/qwen") == node.ask("qwen")
            assert node.state("qwen") == "ready", "the question has woken it there"
