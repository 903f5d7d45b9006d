"""The dashboard: Grafana can lay it out, promtool takes every query, and muxd and SGLang have what they ask for."""

import json
import re
import subprocess
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
import yaml

from muxd.core.states import WorkerState
from tests.conf import promtool
from tests.conf.exposed_metrics import exposed, told_by_sglang
from tests.conf.promql import grouping_labels, selectors

DASHBOARD = json.loads((Path(__file__).parents[2] / "conf/grafana/muxd.json").read_text())
PANELS = DASHBOARD["panels"]
ROWS = [panel for panel in PANELS if panel["type"] == "row"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
TARGET_LABELS = {"job", "instance"}
WIDTH = 24  # of Grafana's grid


def each_graph(test):
    return pytest.mark.parametrize("panel", GRAPHS, ids=[panel["title"] for panel in GRAPHS])(test)


def queries(panel):
    """As Prometheus gets them when everything is chosen."""
    return [filled(target["expr"]) for target in panel["targets"]]


def filled(expr):
    expr = expr.replace("$__rate_interval", "5m")
    return re.sub(r'"\$(\w+)"', lambda variable: f'"{VARIABLES[variable[1]]["allValue"]}"', expr)


def cells(panel):
    place = panel["gridPos"]
    columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return set(product(columns, lines))


def test_every_panel_has_an_id_of_its_own():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_no_panel_lies_on_another_or_beyond_the_edge():
    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    assert all(0 <= x < WIDTH for panel in PANELS for x, _ in cells(panel))


def test_every_panel_stands_below_a_row_that_names_its_subject():
    assert PANELS[0] in ROWS
    assert len({row["title"] for row in ROWS}) == len(ROWS)
    heights = [panel["gridPos"]["y"] for panel in PANELS]
    assert all(above <= below for above, below in pairwise(heights))


def test_whoever_imports_it_chooses_the_data_source_the_hosts_and_the_models():
    assert list(VARIABLES) == ["datasource", "instance", "model"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert DASHBOARD["id"] is None  # Grafana gives one
    for name in ("instance", "model"):
        metric, label = re.fullmatch(r"label_values\((\w+).*, (\w+)\)", VARIABLES[name]["definition"]).groups()
        assert label in exposed().labels[metric] | TARGET_LABELS
        assert VARIABLES[name]["query"]["query"] == VARIABLES[name]["definition"]


@each_graph
def test_a_panel_asks_the_chosen_data_source_about_the_chosen_hosts(panel):
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == chosen
    assert panel["description"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["datasource"] == chosen
        for selector in selectors(target["expr"]):
            assert selector.labels["instance"] == ("$instance",)


@each_graph
def test_a_panel_asks_for_metrics_that_there_are_by_labels_that_they_have(panel):
    for query in queries(panel):
        asked = list(selectors(query))
        assert asked
        for selector in asked:
            if not selector.name.startswith("sglang:"):
                assert selector.labels.keys() <= exposed().labels[selector.name] | TARGET_LABELS
        assert grouping_labels(query) <= set().union(*exposed().labels.values()) | TARGET_LABELS


@each_graph
def test_a_panel_compares_a_label_with_values_that_it_can_have(panel):
    for query in queries(panel):
        for selector in selectors(query):
            for label in selector.labels.keys() & {"state", "kind", "part"}:
                assert set(selector.labels[label]) <= exposed().values[selector.name, label]


@each_graph
def test_what_a_legend_names_is_a_label_that_the_answer_keeps(panel):
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = grouping_labels(target["expr"]) | TARGET_LABELS
        if " by (" not in target["expr"]:
            kept |= set().union(*(exposed().labels[selector.name] for selector in selectors(target["expr"])))
        assert named <= kept


def test_every_state_has_a_colour_and_a_name_of_its_own():
    (panel,) = (panel for panel in GRAPHS if panel["title"] == "Model states")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    (query,) = queries(panel)
    coded = {state: code for code, state in re.findall(r'(\d+) \* muxd_worker_state\{[^}]*state="(\w+)"', query)}
    assert coded.keys() == set(WorkerState)
    assert {state: mapping["options"][code]["text"] for state, code in coded.items()} == {
        state: state.replace("_", " ") for state in WorkerState
    }
    assert len({option["color"] for option in mapping["options"].values()}) == len(WorkerState)


def test_the_engines_figures_are_names_that_sglang_has():
    known = told_by_sglang()
    if known is None:
        pytest.skip("needs SGLang's source: `make real-sglang` installs it")
    asked = {selector.name for panel in GRAPHS for query in queries(panel) for selector in selectors(query)}
    assert {name.removesuffix("_bucket") for name in asked if name.startswith("sglang:")} <= known


def test_promtool_takes_every_query(tmp_path):
    program = promtool.find()
    if program is None:
        pytest.skip("needs promtool: `python tests/conf/promtool.py` gets it, as Debian's package prometheus does")
    exprs = [query for panel in GRAPHS for query in queries(panel)]
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([program, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert f"{len(exprs)} rules found" in done.stdout, done.stdout + done.stderr
