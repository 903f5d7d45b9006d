"""What Prometheus is told over the control socket, with simulated workers and everything else real.

Nothing here needs a proxy: operators switch.
"""

import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.seeds import thorough

from .conftest import two_models
from .muxd import Muxd

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


def test_the_metrics_of_two_awake_engines_are_one_page(start):
    muxd = start(two_models(beta_keys="gpus = [1]"), proxy=ALONE)
    for model in ("alpha", "beta"):
        muxd.switch(model)
    scrape = Scrape(muxd)
    assert scrape.states("alpha") == scrape.states("beta") == ["ready"]
    assert len(scrape.all(SERVED)) == 2
    assert scrape.all(SERVED, model="alpha") == {("unified", "org/alpha"): 2}, "its wake proof, asked twice"
    assert scrape.all(SERVED, model="beta") == {("unified", "beta"): 2}
    assert scrape.all("muxd_engine_scrape_failures_total") == {("alpha",): 0, ("beta",): 0}


@pytest.mark.thorough
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
@pytest.mark.parametrize(("others", "status"), [("none", "403"), *thorough(("read", "200"))])
def test_others_read_them_only_where_they_may(others, status):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with Muxd(Path(folder), two_models(), daemon=f'others = "{others}"', proxy=f'{ALONE}\nuser = "nobody"') as muxd:
            ask = ["/usr/bin/env", "python3", "-c", ASK, str(muxd.socket)]
            done = subprocess.run(ask, user=65533, group=65533, extra_groups=[], capture_output=True, text=True)
            assert done.stdout.strip() == status, done.stderr
