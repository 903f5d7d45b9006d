"""What each engine states of itself, held against who depends on it."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from msgspec import structs

from muxd.config import load_config
from muxd.config.engine_options import ENGINE_OPTIONS, OpenAIOptions
from muxd.config.model_capabilities import told_capabilities
from muxd.config.model_schema import Memory, Model, Script
from muxd.config.proxy_settings import settings_for_proxy
from muxd.config.schema import Config, Daemon
from muxd.engines.registry import ENGINES
from muxd.engines.sglang.kind import EMBEDDING_ROUTES, SGLANG, TEXT_ROUTES
from muxd.errors import ConfigError
from muxd.http.request import Request
from muxd.proxy.requests import capabilities
from muxd.proxy.requests.routes import WorkerRequest, find
from tests.proxy.requests.asking import ask, form, part, send_form

#: A body that every route takes.
BODY = {"model": "qwen", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}


def asked_of(route: str) -> Request:
    """Return a request that the worker has to answer on that route."""
    if route in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        request = send_form(form(part("model", b"qwen"), part("file", b"x", "a.wav")))
        return ask(route.encode(), request.body, headers=tuple(request.headers))
    if re.search("info|/v1/(models|loads|responses/)|/(metrics|ready|ping)$", route):
        return ask(f"/upstream/qwen{route.replace('{id}', 'resp_1')}".encode(), method="GET")
    return ask(route.encode(), BODY)


def told(tmp_path, *models):
    settings = settings_for_proxy(Config(Daemon(tmp_path, tmp_path, tmp_path), models=models))
    return told_capabilities(settings["capabilities"])


EVERY_ROUTE = {route for kind in ENGINES.values() for routes in kind.capabilities.routes.values() for route in routes}


@pytest.mark.parametrize("route", sorted(EVERY_ROUTE))
def test_every_route_that_an_engine_answers_is_one_that_the_proxy_passes_on(route):
    found = find(asked_of(route))
    assert isinstance(found, WorkerRequest)
    assert found.route == route


@pytest.mark.parametrize(
    ("args", "takes"),
    [
        ((), False),
        (("--context-length", "8"), False),
        (("--enable-lora",), True),
        (("--lora-paths", "a=/a"), True),
        (("--lora-paths=/a",), True),
        (("--config", "x.yaml"), True),
    ],
)
def test_a_model_takes_adapters_unless_its_flags_show_that_it_does_not(args, takes):
    assert SGLANG.takes_adapters(Model("a", args=args)) is takes
    assert SGLANG.takes_adapters(Model("a", script=Script(("bash", "a.sh"))))


def test_a_model_makes_embeddings_where_its_flags_say_so():
    assert SGLANG.makes(Model("a", args=("--context-length", "32768", "--is-embedding"))) == "embeddings"
    assert SGLANG.makes(Model("a", args=("--context-length", "32768"))) == ""


@pytest.mark.parametrize(
    ("args", "length"),
    [(("--context-length", "8"), 8), (("--context-length=8",), 8), ((), None), (("--context-length", "x"), None)],
)
def test_a_context_is_as_long_as_the_flags_say(args, length):
    assert SGLANG.context_length(Model("a", args=args)) == length


#: Engines whose flags muxd knows, and those whose command lines are the user's own.
KNOWN = [name for name, kind in ENGINES.items() if kind.has_hub_layout]


@pytest.mark.parametrize("name", KNOWN)
def test_the_proxy_is_told_what_each_engine_answers(tmp_path, name):
    args = ("--runner", "pooling", "--max-model-len=8") if name == "vllm" else ("--is-embedding", "--context-length=8")
    model = Model("a", engine=name, args=args)
    found = told(tmp_path, model).of("a")
    assert (found.engine, found.makes, found.max_model_len) == (name, "embeddings", 8)
    assert found.answers is not None
    assert found.answers.routes == dict(ENGINES[name].capabilities.routes)


@pytest.mark.parametrize(
    ("engine", "has", "has_not"),
    [
        ("sglang", "/generate /encode /v1/classify /v1/loads", "/v2/rerank /pooling /v1/audio/speech"),
        ("simulator", "/generate /encode /v1/classify", "/v2/rerank /pooling"),
        ("vllm", "/v2/rerank /pooling /v1/audio/translations /v1/systemone", "/generate /encode /api/chat /model_info"),
        ("openai", "/v1/audio/speech /v1/images/generations /api/chat /v2/rerank", "/generate /encode /model_info"),
    ],
)
def test_a_model_is_asked_for_the_routes_of_its_engine_and_no_others(tmp_path, engine, has, has_not):
    found = told(tmp_path, Model("a", engine=engine)).of("a")
    allowed = capabilities.allowed(found, "")
    assert allowed is not None
    assert set(has.split()) <= allowed
    assert not set(has_not.split()) & allowed
    for route in has_not.split():
        refusal = capabilities.refusal(found, "", route, "a")
        assert (refusal.status, refusal.message) == (
            404,
            f"a has no {route}: its engine, {engine}, does not answer it",
        )


def test_a_model_of_any_server_is_asked_for_every_route_or_for_those_that_its_table_names(tmp_path):
    any_server = Model("a", engine="openai", engine_options=OpenAIOptions())
    every = capabilities.allowed(told(tmp_path, any_server).of("a"), "")
    assert every is not None
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/api/chat"} <= every
    few = replace(any_server, engine_options=OpenAIOptions(routes=("/v1/embeddings", "/v1/completions", "/nothing")))
    found = told(tmp_path, few).of("a")
    assert capabilities.allowed(found, "") == {"/v1/embeddings", "/v1/completions"}
    refusal = capabilities.refusal(found, "", "/v1/chat/completions", "a")
    assert (refusal.status, refusal.code) == (404, "route_not_found")
    assert refusal.message == "a has no /v1/chat/completions, only /nothing, /v1/completions, /v1/embeddings"


def test_text_is_not_asked_of_a_server_that_would_die_of_it():
    routes = SGLANG.capabilities.routes
    assert not routes["embeddings"] & TEXT_ROUTES
    assert not routes["text"] & EMBEDDING_ROUTES


@pytest.mark.parametrize("table", [5, {"models": {"a": 5}}, {"engines": []}])
def test_what_is_not_understood_tells_nothing(table):
    assert told_capabilities(table).of("a").answers is None


@pytest.mark.parametrize("name", KNOWN)
def test_memory_is_granted_where_its_size_is_said_and_no_flag_says_another(name):
    sized = Model("a", engine=name, gpus=("0", "1"), memory=Memory(weights=6, kv=4))
    assert ENGINES[name].granted(sized) == 5
    assert ENGINES[name].granted(Model("a", engine=name, memory=Memory(weights=6))) == 0
    for flag in ENGINES[name].capabilities.memory_flags:
        told = Model("a", engine=name, memory=Memory(weights=6, kv=4), args=(flag, "0.5"))
        assert ENGINES[name].granted(told) == 0


def test_the_registry_and_the_configuration_run_no_engines_code():
    code = "import sys, muxd.engines.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx", "muxd.engines.sglang.engine", "muxd.engines.simulator.engine", "muxd.simulator"} & set(loaded)


def test_the_registry_has_the_engines_that_a_configuration_may_name():
    assert set(ENGINES) == set(ENGINE_OPTIONS)


def test_a_level_that_an_engine_has_not_is_a_problem_with_its_place(tmp_path, monkeypatch):
    few = structs.replace(ENGINES["simulator"].capabilities, sleep_levels={2: frozenset({2, 3}), 3: frozenset({3})})
    monkeypatch.setitem(ENGINES, "simulator", structs.replace(ENGINES["simulator"], capabilities=few))
    (tmp_path / "muxd.toml").write_text('[models.a]\nengine = "simulator"\nsleep_level = 1\n')
    with pytest.raises(ConfigError, match=r"toml:3: .*sleep_level: simulator has no sleep level 1; use one of 2, 3"):
        load_config(tmp_path / "muxd.toml", {})
