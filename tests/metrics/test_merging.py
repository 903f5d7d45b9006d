"""Pages of engines, good and bad, put together."""

import random
import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from muxd.metrics import merging
from muxd.metrics.merging import PageRefused, merge

SGLANG = b"""\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="/m",tp_rank="0"} 3.0
# HELP sglang:num_requests_total Number of requests processed.
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{model_name="/m"} 4.0
# HELP sglang:e2e_request_latency_seconds Histogram of latency
# TYPE sglang:e2e_request_latency_seconds histogram
sglang:e2e_request_latency_seconds_bucket{le="0.1"} 1.0
sglang:e2e_request_latency_seconds_bucket{le="+Inf"} 2.0
sglang:e2e_request_latency_seconds_count 2.0
sglang:e2e_request_latency_seconds_sum 0.5
"""


def no_pause() -> None:
    pass


class Together:
    def __init__(self, **pages: bytes) -> None:
        self.merged = merge(pages, no_pause)

    def collect(self) -> tuple[Metric, ...]:
        return self.merged.families

    @property
    def text(self) -> str:
        return generate_latest(self).decode()  # type: ignore[arg-type]

    @property
    def refused(self) -> dict[str, str]:
        return dict(self.merged.refused)


def samples(text: str) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    families = list(text_string_to_metric_families(text))
    return sorted((s.name, tuple(sorted(s.labels.items())), s.value) for f in families for s in f.samples)


def test_a_page_is_the_same_but_for_the_label():
    text = Together(qwen=SGLANG).text
    assert text.count('model="qwen"') == 6
    assert re.sub(r'\{model="qwen"\}|,?model="qwen"(?=\})|model="qwen",', "", text) == SGLANG.decode()


def test_families_of_one_name_are_one_family():
    text = Together(a=SGLANG, b=SGLANG).text
    assert [line for line in text.splitlines() if "num_requests" in line] == [
        "# HELP sglang:num_requests_total Number of requests processed.",
        "# TYPE sglang:num_requests_total counter",
        'sglang:num_requests_total{model="a",model_name="/m"} 4.0',
        'sglang:num_requests_total{model="b",model_name="/m"} 4.0',
    ]
    assert len(samples(text)) == 12


def test_an_engines_own_label_model_is_kept_under_another_name():
    text = Together(a=b'x{model="its own",exported_model="older"} 1\n').text
    labels = (("exported_exported_model", "its own"), ("exported_model", "older"), ("model", "a"))
    assert samples(text) == [("x", labels, 1.0)]


def test_values_of_labels_are_escaped_again():
    value = 'a "b" \\\n c é'
    page = 'x{path="a \\"b\\" \\\\\\n c é"} 1\n'
    assert samples(Together(a=page.encode()).text) == [("x", (("model", "a"), ("path", value)), 1.0)]


def test_engines_keep_their_own_names():
    """The parser calls a counter by its name with _total, whatever it was."""
    page = b"# TYPE requests counter\nrequests 3\n  # TYPE  others  counter\nothers 4\n"
    text = Together(a=page).text
    assert samples(text) == [("others", (("model", "a"),), 4.0), ("requests", (("model", "a"),), 3.0)]


def test_where_engines_disagree_on_a_type_the_first_one_counts():
    text = Together(a=b"# TYPE x_total gauge\nx_total 1\n", b=b"# TYPE x_total counter\nx_total 2\n").text
    assert samples(text) == [("x_total", (("model", "a"),), 1.0)]
    assert text.count("# TYPE") == 1


def test_an_engine_cannot_speak_for_muxd():
    assert Together(a=b"# TYPE muxd_up gauge\nmuxd_up 0\nmuxd_requests_total 5\nx 1\n").text.count("muxd") == 0


def test_a_timestamp_is_left_out_and_special_values_are_kept():
    text = Together(a=b"x 1 1700000000000\ny NaN\nz +Inf\n").text
    assert text.splitlines()[2] == 'x{model="a"} 1.0'
    assert 'y{model="a"} NaN' in text
    assert 'z{model="a"} +Inf' in text


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b"\x1f\x8b\x08\x00gzip",
        b"\xff\xfe",
        b"x{",
        b"x 1\nx{a=}",
        b'x{a="1",a="2"} 1',
        b'{"a.b"} 1',
        b'x{"a.b"="c"} 1',
        b"x " + b"9" * 400,
        b"x 1 " + b"9" * 400,
        b"# TYPE x info\nx 1",
        b"# TYPE x nonsense\nx 1",
        b"x one",
        b"#" * merging.LONGEST_LINE + b"#",
    ],
)
def test_garbage_is_left_out_and_the_others_stay(garbage):
    together = Together(bad=garbage + b"\n", good=b"x 1\n")
    assert list(together.refused) == ["bad"]
    assert samples(together.text) == [("x", (("model", "good"),), 1.0)]


def test_nothing_of_a_page_with_something_wrong_in_it_is_used():
    together = Together(a=SGLANG + b"x{\n")
    assert (list(together.refused), together.text) == (["a"], "")


def test_an_empty_page_is_a_page():
    assert Together(a=b"").refused == Together(a=b"\n\n# EOF\n").refused == {}


def test_others_may_run_meanwhile_and_the_time_may_be_over():
    pauses: list[int] = []

    def breathe() -> None:
        pauses.append(1)
        if len(pauses) == 5:
            raise PageRefused("it could not be read in time")

    long = b"x 1\n" * (merging.BREATH // 4)
    merged = merge({"a": long * 4, "b": long * 2, "c": b"x 1\n"}, breathe)
    assert dict(merged.refused) == {"b": "it could not be read in time"}
    assert {sample.labels["model"] for family in merged.families for sample in family.samples} == {"a", "c"}


def test_no_garbage_breaks_the_page():
    """Good pages, damaged by chance: what is not refused is a page that is read as it was meant."""
    chance = random.Random(7)
    rubbish = b'ab_:{}="\\,# \n\t1.eE+-NaN\x00\xff'
    refused = 0
    for _ in range(1500):
        page = bytearray(SGLANG)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(page))
            page[at : at + chance.randint(0, 3)] = chance.choices(rubbish, k=chance.randint(0, 3))
        together = Together(a=bytes(page), b=SGLANG)
        refused += len(together.refused)
        assert list(together.refused) in ([], ["a"])
        read = samples(together.text)
        assert [labels for _, labels, _ in read if ("model", "b") in labels]
        assert len(read) == sum(len(family.samples) for family in together.merged.families)
        types = [line for line in together.text.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len({line.split()[2] for line in types})
    assert 0 < refused < 1500
