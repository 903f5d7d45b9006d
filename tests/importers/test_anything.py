"""Whatever stands in a configuration, it is read and means the same once written, or a ConfigError tells why not."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muxd.errors import ConfigError

from .imports import Imports
from .test_llama_swap import everything
from .test_llmux import EXAMPLE, HOOKS

ODD = ["", "x", "${PORT}", "${MODEL_ID}", "${nope}", "a\nb", "'", "\u2028", "http://[::1", "http://x:99999999", "-"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.floats() | st.sampled_from(ODD) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)

#: llmux's example and its hooks, as tables.
LLMUX = json.loads(EXAMPLE) | {"policy": {"eviction": {"weights": "offload", "process": "stop"}, "sleep_level": 2}}


def places(value, path=()):
    """The path of every value inside of one."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def told(load):
    """What is wrong with a configuration; nothing where it can be loaded."""
    try:
        load()
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize(("program", "name"), [("llama-swap", "c.yaml"), ("llmux", "c.json"), ("llmux", "c.yaml")])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_junk_in_any_place_is_read_or_told(tmp_path, monkeypatch, program, name, data):
    monkeypatch.chdir(tmp_path)
    whole = copy.deepcopy(everything() if program == "llama-swap" else LLMUX)
    *before, last = data.draw(st.sampled_from(list(places(whole))))
    inner = whole
    for key in before:
        inner = inner[key]
    inner[last] = data.draw(JUNK)
    problems = told(lambda: Imports(program, tmp_path).load(json.dumps(whole), name))
    assert all(name in problem for problem in problems)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 400), cut=st.integers(0, 30), odd=st.binary(max_size=4) | st.sampled_from([b"&a ", b"*a", b"!!x"])
)
def test_bytes_in_any_place_are_read_or_told(tmp_path, at, cut, odd):
    text = HOOKS.encode()
    (tmp_path / "c.yaml").write_bytes(text[:at] + odd + text[at + cut :])
    problems = told(lambda: Imports("llmux", tmp_path).load_file(tmp_path / "c.yaml"))
    assert all("c.yaml" in problem for problem in problems)
