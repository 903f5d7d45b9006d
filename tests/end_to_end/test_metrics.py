"""What Prometheus is told over the control socket, with simulated workers and everything else real.

Nothing here needs a proxy: operators switch.
"""

import os
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import two_models
from .muxd import Muxd, eventually

ALONE = "managed = false"
SERVED = "sglang:num_requests_total"


class Scrape:
    """One page, read as Prometheus reads it."""

    def __init__(self, muxd: Muxd) -> None:
        answer = muxd.control("GET", "/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.families = list(text_string_to_metric_families(answer.text))
        assert len({family.name for family in self.families}) == len(self.families)

    def __call__(self, name: str, **labels: str) -> float | None:
        """The one sample of this name that has these labels, among others."""
        found = self.all(name, **labels)
        assert len(found) <= 1, found
        return next(iter(found.values()), None)

    def all(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The values of the other labels, in the order of their names -> the sample's value."""
        samples = [s for family in self.families for s in family.samples if s.name == name]
        return {
            tuple(value for label, value in sorted(s.labels.items()) if label not in labels): s.value
            for s in samples
            if labels.items() <= s.labels.items()
        }

    def states(self, model: str) -> list[str]:
        return [state for (state,), value in self.all("muxd_worker_state", model=model).items() if value == 1]


def test_a_switch_there_and_back_is_counted_with_its_parts(start):
    muxd = start(two_models(levels=(2, 3)), proxy=ALONE)
    assert Scrape(muxd).all("muxd_switches_total") == {}
    for model in ("alpha", "beta", "alpha"):
        assert muxd.switch(model)["type"] == "ready"
    scrape = Scrape(muxd)
    there, back = {"from": "alpha", "to": "beta", "level": "2"}, {"from": "beta", "to": "alpha", "level": "3"}
    assert scrape.all("muxd_switches_total", to="alpha") == {("", ""): 1, ("beta", "3"): 1}
    assert scrape("muxd_switches_total", **there) == 1
    for kind in (there, back):
        assert scrape.all("muxd_switch_seconds_count", **kind) == dict.fromkeys(
            (("drain",), ("sleep",), ("free",), ("wake",)), 1
        )
        assert all(seconds >= 0 for seconds in scrape.all("muxd_switch_seconds_sum", **kind).values())
    assert scrape("muxd_switch_seconds_sum", **there, part="sleep") >= 0.02, "its simulated sleep takes so long"
    assert scrape("muxd_switch_seconds_sum", **there, part="wake") >= 0.3, "its simulated load takes so long"


def test_memory_that_comes_back_late_is_waited_for_in_its_own_part(start):
    muxd = start(two_models(alpha="release_lag = 1.0"), proxy=ALONE)
    for model in ("alpha", "beta"):
        assert muxd.switch(model)["type"] == "ready"
    assert Scrape(muxd)("muxd_switch_seconds_sum", **{"from": "alpha"}, part="free") > 0.3


def test_each_worker_is_in_one_state_with_its_memory_and_its_gpus(start):
    muxd = start(proxy=ALONE)
    for model in ("alpha", "beta"):
        muxd.switch(model)
    scrape = Scrape(muxd)
    assert (scrape.states("alpha"), scrape.states("beta")) == (["asleep"], ["ready"])
    assert len(scrape.all("muxd_worker_state", model="alpha")) == 12
    memory = muxd.status("alpha")["memory"]
    assert scrape.all("muxd_worker_memory_bytes", model="alpha") == {(kind,): size for kind, size in memory.items()}
    (gpu,) = muxd.status()["gpus"]
    assert scrape("muxd_gpu_memory_bytes", gpu="0", kind="total") == gpu["total"]
    assert scrape("muxd_gpu_memory_bytes", gpu="0", kind="used") >= 58 << 30
    assert scrape("muxd_host_memory_bytes", kind="total") > scrape("muxd_host_memory_bytes", kind="available") > 0
    assert scrape("muxd_uptime_seconds") > 0
    assert scrape("muxd_info", version=muxd.status()["version"]) == 1


def test_a_restart_after_a_kill_is_counted(start):
    muxd = start(proxy=ALONE)
    muxd.switch("alpha")
    os.kill(muxd.worker("alpha")["scheduler"], signal.SIGKILL)
    eventually(lambda: Scrape(muxd)("muxd_worker_restarts_total", model="alpha") == 1, "its restart is counted")
    muxd.until_state("alpha", "ready")
    scrape = Scrape(muxd)
    assert scrape.all("muxd_worker_restarts_total") == {("alpha",): 1, ("beta",): 0}
    assert scrape.all("muxd_switches_total") == {("", "", "alpha"): 2}, "nobody gave way to it"


def test_the_metrics_of_two_awake_engines_are_one_page(start):
    muxd = start(two_models(beta_keys="gpus = [1]"), proxy=ALONE)
    for model in ("alpha", "beta"):
        muxd.switch(model)
    scrape = Scrape(muxd)
    assert scrape.states("alpha") == scrape.states("beta") == ["ready"]
    assert len(scrape.all(SERVED)) == 2
    assert scrape.all(SERVED, model="alpha") == {("unified", "org/alpha"): 0}
    assert scrape.all(SERVED, model="beta") == {("unified", "beta"): 0}
    assert scrape.all("muxd_engine_scrape_failures_total") == {("alpha",): 0, ("beta",): 0}


def test_an_engine_that_does_not_answer_is_left_out_and_one_that_sleeps_is_not_asked(start):
    models = two_models(beta_keys="gpus = [1]").replace("300ms", "60s") + '[models.gamma]\nserved_names = ["c"]\n'
    muxd = start(models, proxy=ALONE)
    for model in ("alpha", "gamma", "beta"):
        assert muxd.switch(model)["type"] == "ready"
    stopped = [muxd.worker(model)["launcher"] for model in ("alpha", "beta")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    scrape = Scrape(muxd)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert scrape.states("alpha") == ["asleep"]
    assert [labels[1] for labels in scrape.all(SERVED)] == ["gamma"]
    assert scrape.all("muxd_engine_scrape_failures_total") == {("alpha",): 0, ("beta",): 1, ("gamma",): 0}
    assert [labels[1] for labels in Scrape(muxd).all(SERVED)] == ["beta", "gamma"]


def test_a_busy_scraper_does_not_hold_up_a_switch(start):
    muxd = start(proxy=ALONE)
    muxd.switch("alpha")
    with ThreadPoolExecutor(8) as scrapers:
        pages = scrapers.map(lambda _: Scrape(muxd), range(60))
        for model in ("beta", "alpha", "beta"):
            assert muxd.switch(model)["type"] == "ready"
        assert len(list(pages)) == 60
    assert sum(Scrape(muxd).all("muxd_switches_total").values()) == 4


ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as muxd:
    muxd.connect(sys.argv[1])
    muxd.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: muxd\\r\\nConnection: close\\r\\n\\r\\n")
    print(muxd.makefile("rb").readline().split()[1].decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("others", "status"), [("read", "200"), ("none", "403")])
def test_others_read_them_only_where_they_may(others, status):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with Muxd(Path(folder), two_models(), daemon=f'others = "{others}"', proxy=f'{ALONE}\nuser = "nobody"') as muxd:
            ask = ["/usr/bin/env", "python3", "-c", ASK, str(muxd.socket)]
            done = subprocess.run(ask, user=65533, group=65533, extra_groups=[], capture_output=True, text=True)
            assert done.stdout.strip() == status, done.stderr
