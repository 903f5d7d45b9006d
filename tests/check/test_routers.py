"""`router.args` are compared with the real sglang-router's own parser before anything starts."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest

from tests.end_to_end.api_server import ApiServer
from tests.end_to_end.muxd import eventually
from tests.ports import free_port
from tests.seeds import thorough

MODEL = 'engine = "simulator"\nreplicas = 2\ngpus = [0, 1]\n'


def faults(report, args, name="qwen"):
    status, lines = report(f"[models.{name}]\n{MODEL}router = {{ policy = 'random', args = {args} }}\n")
    return status, [text for mark, subject, text in lines if (mark, subject) == ("WRONG", name)]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--eviction-interval", "x"], "argument --eviction-interval-secs: invalid int value: 'x'"),
        (["--cb-failur-threshold", "3"], "it knows no --cb-failur-threshold; did you mean --cb-failure-threshold?"),
        (["--assignment-mode", "eldest"], "--assignment-mode: eldest is no value of it; there are"),
        (["word"], "word belongs to no flag; remove it, or write its flag first"),
        (["--cb-failure-threshold", "0"], "Configuration error: Invalid value for field 'circuit_breaker.failure_thre"),
        (["--cb-failure-threshold", "99999999999999"], "out of range integral type conversion attempted"),
        *thorough(
            (["--max-tree-size"], "argument --max-tree-size: expected one argument"),
            (
                ["--ca-cert-paths", "/no.pem"],
                "Configuration error: Validation failed: Failed to read CA certificate from",
            ),
        ),
    ],
)
def test_what_the_router_would_refuse_is_an_error_with_its_line(report, args, said):
    status, (text,) = faults(report, args)
    assert status == 2
    assert text.startswith(f"muxd.toml:7: the sglang-router of {sys.executable} does not take router.args: {said}")


def test_every_fault_of_several_flags_is_told(report):
    status, told = faults(report, ["--eviction-interval", "x", "--max-idle-secs", "y", "--nothing"])
    assert status == 2
    assert len(told) == 3


def test_a_flag_that_is_muxds_own_names_its_key(report):
    status, (text,) = faults(report, ["--policy", "random"])
    assert (status, text) == (2, "muxd.toml:7: models.qwen.router.args: --policy is muxd's own; use the key policy")


def test_flags_that_the_router_knows_are_fine(report):
    flags = ["--eviction-interval", "60", "--cb-failure-threshold=3", "--enable-trace", "--dp-aware"]
    flags += ["--prefill-policy", "power_of_two"]
    status, told = faults(report, flags)
    assert (status, told) == (0, [])


def test_the_command_line_of_the_router_is_refused_before_anything_starts(tmp_path):
    argv = [sys.executable, "-m", "muxd", "router", "--worker-urls", "http://127.0.0.1:1", "--eviction-interval", "x"]
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("muxd router: the sglang-router of ")
    assert line.endswith("argument --eviction-interval-secs: invalid int value: 'x'")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])


def answers(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    return False


def test_servers_elsewhere_that_do_not_answer_are_named_and_those_that_do_are_fine(report):
    table = "engine = 'remote'\nurls = {urls}\nrouter = {{ policy = 'round_robin' }}\n"
    port = free_port()
    argv = [sys.executable, "-m", "muxd.simulator", "--port", str(port), "--model-path", "m", "--load-time", "0.1"]
    here, nobody = f"http://127.0.0.1:{port}", "http://127.0.0.1:1"
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as server:
        try:
            eventually(lambda: answers(here), "the server answers")
            one, two = (table.format(urls=json.dumps(urls)) for urls in ([here], [here, nobody]))
            status, lines = report(f"[models.fine]\n{one}[models.half]\n{two}")
        finally:
            server.kill()
    of_models = {subject: (mark, text) for mark, subject, text in lines if subject in ("fine", "half")}
    assert status == 0
    assert of_models == {
        "fine": ("ok", "its servers run elsewhere, behind a router"),
        "half": ("warn", f"no answer from {nobody}; the other servers have its requests"),
    }


class Shy(ThreadingHTTPServer):
    """A server that serves nobody until all of `others` have been asked, too."""

    daemon_threads = True

    def __init__(self, others):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked, self.others = threading.Event(), others
        others.append(self)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.set()
        self.send_response(200 if all(server.asked.is_set() for server in self.server.others) else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_servers_of_several_models_are_asked_side_by_side(report):
    """So that many that are silent take as long as one: each of these answers only once the other was asked."""
    others = []
    with Shy(others) as one, Shy(others) as two:
        text = ""
        for name, server in (("one", one), ("two", two)):
            text += f"[models.{name}]\nengine = 'remote'\nurls = ['http://127.0.0.1:{server.server_port}']\n"
        _, lines = report(text + "[defaults]\nrouter = { policy = 'round_robin' }\n")
        for server in others:
            server.shutdown()
    told = [(mark, subject) for mark, subject, _ in lines if subject in ("one", "two")]
    assert told == [("ok", "one"), ("ok", "two")], lines


def test_the_terminals_interrupt_ends_the_trial_of_servers_without_a_word(tmp_path):
    others = [SimpleNamespace(asked=threading.Event())]
    with Shy(others) as server:
        file = tmp_path / "muxd.toml"
        table = f"[models.one]\nengine = 'remote'\nurls = ['http://127.0.0.1:{server.server_port}']\n"
        file.write_text(f"[muxd]\nsocket = '{tmp_path}/s'\nstate_dir = '{tmp_path}/state'\n{table}router = {{}}\n")
        argv = [sys.executable, "-m", "muxd", "check", "--config", str(file)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert server.asked.wait(60)
            process.send_signal(signal.SIGINT)
            said = process.communicate()
        server.shutdown()
    assert (process.returncode, *said) == (130, "", "")


def test_a_selector_that_matches_no_pod_is_named_and_so_is_a_cluster_that_does_not_answer(report, tmp_path):
    with ApiServer() as api:
        env = f"env = {{ KUBECONFIG = '{api.kubeconfig(tmp_path)}' }}\n"
        text = f"[models.pods]\nengine = 'remote'\ndiscovery = {{ selector = {{ app = 'qwen' }} }}\n{env}"
        _, lines = report(text)
        api.stop()
        _, gone = report(text)
    told, of_gone = ([line for line in each if line[1] == "pods"] for each in (lines, gone))
    said = "its router found no pod with app=qwen in any namespace that is Ready and answers at port 30000"
    assert told == [("warn", "pods", said)]
    ((mark, _, why),) = of_gone
    assert (mark, why.partition(": ")[0]) == ("warn", "its router cannot watch pods")
