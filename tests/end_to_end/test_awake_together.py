"""Several models awake on one GPU: whoever fits is loaded beside the others, and for one that does not, one leaves."""

from concurrent.futures import ThreadPoolExecutor

from .conftest import QUICK
from .muxd import eventually

HEAD = """\
[defaults]
engine = "simulator"
sleep_level = 1
"""

MODEL = """\
[models.{name}]
memory = {{ weights = "{weights}GiB", kv = "{kv}GiB", overhead = "1GiB" }}
simulation = {{ {quick} }}
"""


def models(**sizes: tuple[int, int]) -> str:
    """Return a configuration of simulated models, by name: GiB of weights and of KV cache."""
    return HEAD + "".join(
        MODEL.format(name=name, weights=weights, kv=kv, quick=QUICK) for name, (weights, kv) in sizes.items()
    )


THREE = models(large=(28, 11), middle=(18, 11), small=(18, 11))  # 40, 30 and 30 GiB of 80


def states(muxd) -> dict[str, str]:
    return {name: muxd.status(name)["state"] for name in ("large", "middle", "small")}


def test_two_that_fit_together_are_both_awake_and_a_third_takes_the_place_of_one(start):
    muxd = start(THREE)
    texts = {name: muxd.ask(name) for name in ("large", "middle")}
    assert states(muxd) == {"large": "ready", "middle": "ready", "small": "unloaded"}
    texts["small"] = muxd.ask("small")
    after = states(muxd)
    assert after["small"] == "ready"
    assert sorted(after.values()) == ["asleep", "ready", "ready"], "exactly one left"
    (left,) = (name for name, state in after.items() if state == "asleep")
    assert f"{left}: ready -> draining ({left} gives way to small)" in muxd.log
    assert {name: muxd.ask(name) for name in texts} == texts, "right answers after every wake"


def test_a_stream_of_one_that_stays_is_not_disturbed_by_a_switch_beside_it(start):
    muxd = start(THREE)
    muxd.ask("middle")
    muxd.ask("large")
    undisturbed = muxd.ask("large", max_tokens=200, stream=True)
    with ThreadPoolExecutor(1) as client:
        stream = client.submit(muxd.ask, "large", max_tokens=200, stream=True)
        eventually(lambda: muxd.status("large")["in_flight"] == 1, "it runs")
        muxd.ask("small")
        assert stream.result() == undisturbed
    assert states(muxd) == {"large": "ready", "middle": "asleep", "small": "ready"}


def test_a_model_without_sizes_is_alone(start):
    muxd = start(models(large=(28, 11), middle=(18, 11)) + '[models.small]\nmemory = { weights = "1GiB" }\n')
    muxd.ask("large")
    muxd.ask("middle")
    muxd.ask("small")
    assert states(muxd) == {"large": "asleep", "middle": "asleep", "small": "ready"}
