"""The scrape configuration and the alert rules: promtool takes them, each alert is tried, muxd has all they ask for."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from muxctl.verbs import VERBS
from muxd.config.schema import Proxy
from tests.conf import promtool
from tests.conf.exposed_metrics import error_codes, exposed
from tests.conf.promql import grouping_labels, selectors

PROMETHEUS = Path(__file__).parents[2] / "conf/prometheus"
TESTS = PROMETHEUS / "tests"
TARGET_LABELS = {"job", "instance"}
PROMETHEUS_OWN = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate"}}

GROUPS = yaml.safe_load((PROMETHEUS / "muxd.rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULES if "record" in rule}
ALL = ALERTS | RECORDED


def each_alert(test):
    return pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)(test)


def each_rule(test):
    return pytest.mark.parametrize("rule", ALL.values(), ids=ALL)(test)


@pytest.fixture(scope="module")
def run_promtool():
    """Runs promtool with arguments; what it says."""
    program = promtool.find()
    if program is None:
        pytest.skip("needs promtool: `python tests/conf/promtool.py` gets it, as Debian's package prometheus does")

    def run(*arguments):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@cache
def cases(name):
    """Return the cases in a file of promtool's tests."""
    return yaml.safe_load((TESTS / name).read_text())["tests"]


@cache
def verdicts(name):
    """Return what a file of promtool's tests expects: (expr, labels of every sample), in its order."""
    return [
        (asked["expr"], [only(sample["labels"]).labels for sample in asked["exp_samples"]])
        for case in cases(name)
        for asked in case["promql_expr_test"]
    ]


def only(expr):
    (found,) = selectors(expr)
    return found


def leaves(expr):
    """The metrics that it asks for in the end, through recorded ones."""
    for selector in selectors(expr):
        recorded = RECORDED.get(selector.name)
        yield from leaves(recorded["expr"]) if recorded else [selector.name]


# As promtool sees them


def test_promtool_takes_the_configuration_and_its_rules(run_promtool):
    run_promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(RULES)} rules found" in run_promtool("check", "rules", PROMETHEUS / "muxd.rules.yml")


@pytest.mark.parametrize("name", ["firing.yml", "healthy.yml"])
def test_the_alerts_fire_when_they_should_and_never_on_a_healthy_host(run_promtool, name):
    assert "SUCCESS" in run_promtool("test", "rules", TESTS / name)


def test_every_alert_is_made_to_fire():
    fired = {labels["alertname"][0] for _, samples in verdicts("firing.yml") for labels in samples}
    assert fired == ALERTS.keys()


def test_the_healthy_host_has_whatever_an_alert_looks_at():
    """Or its silence would say nothing."""
    there = {only(series["series"]).name for case in cases("healthy.yml") for series in case["input_series"]}
    assert {name for alert in ALERTS.values() for name in leaves(alert["expr"])} <= there
    assert all(samples == [] for _, samples in verdicts("healthy.yml"))


# What muxd has of it


@each_rule
def test_a_rule_asks_for_metrics_that_there_are_by_labels_that_they_have(rule):
    known = {name: labels | TARGET_LABELS for name, labels in exposed().labels.items()} | PROMETHEUS_OWN
    for selector in selectors(rule["expr"]):
        if selector.name not in RECORDED:
            assert selector.name in known
            assert selector.labels.keys() <= known[selector.name]
    assert grouping_labels(rule["expr"]) <= set().union(*known.values())


@each_rule
def test_a_rule_compares_a_label_with_values_that_it_can_have(rule):
    for selector in selectors(rule["expr"]):
        for label in selector.labels.keys() & {"state", "kind", "part"}:
            originals = leaves(rule["expr"])
            possible = set().union(*(exposed().values.get((name, label), set()) for name in originals))
            assert set(selector.labels[label]) <= possible
        assert set(selector.labels.get("code", ())) <= error_codes()


@pytest.mark.parametrize("name", ["firing.yml", "healthy.yml"])
def test_the_rules_are_tried_on_series_that_muxd_sends(name):
    known = {name: labels | TARGET_LABELS for name, labels in exposed().labels.items()} | {"up": TARGET_LABELS}
    for case in cases(name):
        for series in case["input_series"]:
            selector = only(series["series"])
            assert selector.labels.keys() == known[selector.name]


def test_the_port_that_is_scraped_is_the_one_that_the_annotated_configuration_shows():
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert f'#metrics_listen = "{target}"' in (PROMETHEUS.parent / "muxd.toml").read_text().splitlines()
    (known,) = selectors(ALERTS["MuxdProxyDown"]["expr"])
    assert known.labels["job"] == (job["job_name"],)


def test_the_thresholds_are_those_of_muxds_defaults():
    assert f"{Proxy().buffer_memory // 2**20} * 1024 * 1024" in ALERTS["MuxdBuffersNearlyFull"]["expr"]


# What an operator reads


@each_alert
def test_an_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert):
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert "for" in alert
    assert alert["annotations"].keys() == {"summary", "description"}
    if alert["alert"] != "MuxdNotScraped":
        assert "{{ $labels.instance }}" in alert["annotations"]["summary"]
        assert "`muxctl " in alert["annotations"]["description"]


@each_alert
def test_every_verb_that_an_alert_advises_is_one_of_muxctls(alert):
    advised = re.findall(r"`muxctl (\w+)", alert["annotations"]["description"])
    assert set(advised) <= VERBS.keys()


@each_alert
def test_what_an_alert_puts_into_its_words_is_a_label_that_it_has(alert):
    (fired,) = {
        frozenset(labels)
        for _, samples in verdicts("firing.yml")
        for labels in samples
        if labels["alertname"] == (alert["alert"],)
    }
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    assert told <= fired
