"""What a real SGLang that muxd started tells Prometheus, through muxd, awake and after a sleep."""

import httpx

from muxd.engines.wake_proof import ANSWER_TOKENS
from tests.end_to_end.muxd import Muxd, eventually
from tests.end_to_end.test_metrics import ALONE, SERVED, Scrape

from .test_muxd import DEADLINE, config


def generated(muxd: Muxd, tokens: int) -> None:
    """Have the engine itself answer a request: no proxy is needed here."""
    url = muxd.status("tiny-a")["url"]
    body = {"prompt": "hello", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    assert httpx.post(f"{url}/v1/completions", json=body, timeout=DEADLINE).status_code == 200


def until_served(muxd: Muxd, requests: int) -> Scrape:
    def scrape() -> Scrape | None:
        scrape = Scrape(muxd)
        return scrape if sum(scrape.all(SERVED, model="tiny-a").values()) == requests else None

    return eventually(scrape, f"{requests} requests are counted")


def test_an_engines_own_metrics_come_with_its_name_and_outlast_a_sleep(sglang_home, tmp_path):
    with Muxd(tmp_path, config(sglang_home, (2, 1)), proxy=ALONE, deadline=DEADLINE) as muxd:
        assert muxd.switch("tiny-a")["type"] == "ready"
        before = sum(Scrape(muxd).all(SERVED, model="tiny-a").values())  # its warm-up and its wake proof
        generated(muxd, 16)
        awake = until_served(muxd, before + 1)
        assert awake.all("sglang:num_running_reqs", model="tiny-a")
        assert muxd.control("POST", "/v1/models/tiny-a/sleep").status_code == 200
        asleep = Scrape(muxd)
        assert asleep.states("tiny-a") == ["asleep"]
        assert not [family.name for family in asleep.families if not family.name.startswith("muxd_")]
        assert muxd.switch("tiny-a")["type"] == "ready"
        generated(muxd, 16)
        again = until_served(muxd, before + 3)  # the proof after its wake is one
        total = "sglang:generation_tokens_total"
        assert sum(again.all(total).values()) == sum(awake.all(total).values()) + 16 + ANSWER_TOKENS
        names = {family.name for family in awake.families}
        assert names <= {family.name for family in again.families}
        assert again.all("muxd_engine_scrape_failures_total") == {("tiny-a",): 0, ("tiny-b",): 0}
        assert again.all("muxd_switches_total") == {("", "", "tiny-a"): 2}
        muxd.stop()
        assert not list((tmp_path / "state" / "workers").iterdir()), "what it counted in files is gone with it"
