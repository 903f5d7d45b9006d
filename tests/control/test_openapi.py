"""The control API's OpenAPI file: all routes are in it, and a real socket bears whatever it allows."""

import json
from functools import cache
from itertools import count
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from muxd.control import answers
from muxd.control.openapi import openapi, openapi_text
from muxd.control.rights import Rights
from muxd.control.routes import ControlRoutes
from tests.as_answered import as_answered
from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually

from .office import FakeOffice

FILE = Path(__file__).parents[2] / "conf/openapi.json"

DOCUMENT = openapi()

#: These end muxd, or turn the connection into something else.
LEFT_OUT = {"/v1/shutdown", "/v1/upgrade", "/v1/session"}
OPERATIONS = [
    (method, path) for path, methods in DOCUMENT["paths"].items() for method in methods if path not in LEFT_OUT
]


def test_the_file_is_what_the_routes_say():
    assert FILE.read_text() == openapi_text(), "run `make reference`"


def test_every_route_is_in_it_and_no_other(tmp_path):
    routes = ControlRoutes(FakeOffice(tmp_path), Rights(own_uid=0))
    there = {(method, path.replace("/NAME", "/{name}").replace("/ID", "/{id}")) for path, method in routes._routes}
    assert {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods} == there


def test_it_names_the_fields_of_every_query(tmp_path):
    routes = ControlRoutes(FakeOffice(tmp_path), Rights(own_uid=0))._routes.values()
    for route in routes:
        operation = DOCUMENT["paths"][route.path.replace("/NAME", "/{name}").replace("/ID", "/{id}")]
        told = operation[route.method.lower()].get("parameters", [])
        assert {each["name"] for each in told if each["in"] == "query"} == set(route.fields), route.path


@pytest.fixture(scope="module")
def muxd(tmp_path_factory):
    """A muxd that has switched between its models, and answered both."""
    with Muxd(tmp_path_factory.mktemp("openapi"), two_models()) as muxd:
        for model in ("alpha", "beta"):
            assert muxd.ask(model, stream=True)
        eventually(lambda: len(muxd.control("GET", "/v1/requests").json()["requests"]) >= 2, "both are told")
        yield muxd


ANSWERS = [
    ("GET", "/v1/version", answers.VersionAnswer),
    ("GET", "/v1/status", answers.StatusAnswer),
    ("GET", "/v1/models/alpha", answers.ModelAnswer),
    ("GET", "/v1/requests", answers.RequestsAnswer),
    ("GET", "/v1/switches", answers.SwitchesAnswer),
    ("GET", "/v1/series?step=1", answers.SeriesAnswer),
    ("GET", "/v1/usage", answers.UsageAnswer),
    ("POST", "/v1/reload", answers.ReloadAnswer),
]


@pytest.mark.parametrize(("method", "path", "form"), ANSWERS)
def test_an_answer_has_the_fields_that_are_named_and_no_other(muxd, method, path, form):
    said = {"schema": {"$ref": f"#/components/schemas/{form.__name__}"}}
    operation = DOCUMENT["paths"][path.partition("?")[0].replace("alpha", "{name}")][method.lower()]
    assert operation["responses"]["2XX"]["content"]["application/json"] == said
    answer = as_answered(muxd.control(method, path).json(), form)
    assert all(answer.values()) or form not in (answers.SwitchesAnswer, answers.UsageAnswer, answers.SeriesAnswer)


def test_every_event_has_what_all_have(muxd):
    lines = muxd.control("GET", "/v1/events?after=0&follow=0").text.splitlines()
    assert lines
    for line in lines:
        msgspec.json.decode(line, type=answers.EventAnswer)


@cache
def as_schemathesis_has_it():
    import schemathesis  # half a second, which the processes of pytest that run none of these tests are spared

    return schemathesis.openapi.from_dict(DOCUMENT)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_it_allows_is_answered_or_refused_with_a_reason(muxd, method, path):
    """By schemathesis: no answer of 500, and every refusal has its code, its message and no traceback."""
    from schemathesis.core import NOT_SET

    operation = as_schemathesis_has_it()[path][method.upper()]

    turn = count()

    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case):
        if "name" in (case.path_parameters or {}) and next(turn) % 2:
            case.path_parameters["name"] = "alpha"  # else a name that is none, nearly always
        transport = httpx.HTTPTransport(uds=str(muxd.socket))
        with httpx.Client(transport=transport, base_url="http://muxd", timeout=30) as client:
            body = None if case.body is NOT_SET else json.dumps(case.body).encode()
            target = httpx.URL(f"http://muxd{case.formatted_path}", params=case.query or {})
            with client.stream(method.upper(), target, content=body) as answer:
                assert answer.status_code != 500, answer.read()
                if answer.status_code >= 400:
                    error = json.loads(answer.read())["error"]
                    assert error["code"] != "internal_error"
                    assert error["message"]
                    assert "Traceback" not in error["message"]

    ask()
    assert muxd.process.poll() is None
    assert muxd.control("GET", "/v1/version").status_code == 200
