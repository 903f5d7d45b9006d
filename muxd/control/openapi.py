"""The control API as OpenAPI 3.1: conf/openapi.json, from routes, bodies, answers and the fields of the queries.

`make reference` makes the file anew; tests hold it equal, and ask a real control socket whatever it allows.
"""

import json
from typing import Any, NamedTuple

import msgspec

from muxd import __version__
from muxd.history.event_kinds import KINDS
from muxd.history.series import FIELDS, STEPS

from . import answers, bodies
from .routes import BODIES, ORDERS, REQUEST_STATES

_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_TIME: dict[str, Any] = {"type": "number"}
_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"enum": ["1", "0"]}
_FILTER: dict[str, Any] = {"model": _TEXT, "since": _TIME, "until": _TIME, "lines": {**_COUNT, "maximum": 10_000}}

#: Streams of JSON lines, each an object.
_LINES = "application/x-ndjson"


class _Operation(NamedTuple):
    summary: str
    query: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    body: type[msgspec.Struct] | None = None
    answer: str = "application/json"
    says: Any = None  # the type of what is answered, or of each of its lines


_LOGS: dict[str, dict[str, object]] = {
    "lines": {**_COUNT, "maximum": 10_000},
    "since": _TIME,
    "until": _TIME,
    "follow": _FLAG,
    "stream": {"enum": ["stdout", "stderr", "both"]},
}

_OPERATIONS = {
    ("GET", "/v1/version"): _Operation("Version, pid, and when muxd began", says=answers.VersionAnswer),
    ("GET", "/v1/status"): _Operation("What muxd and every model is doing", says=answers.StatusAnswer),
    ("GET", "/metrics"): _Operation("Metrics in Prometheus' text format", answer="text/plain"),
    ("GET", "/v1/proxy"): _Operation("The settings that a proxy needs"),
    ("GET", "/v1/models/NAME"): _Operation("Everything about one model", says=answers.ModelAnswer),
    ("POST", "/v1/models/NAME/switch"): _Operation("Make a model ready now", body=bodies.SwitchBody, answer=_LINES),
    ("POST", "/v1/models/NAME/hold"): _Operation("Keep a model where it is", body=bodies.HoldBody, answer=_LINES),
    ("POST", "/v1/models/NAME/unhold"): _Operation("Let a held model go", body=bodies.NothingBody),
    ("POST", "/v1/models/NAME/validate"): _Operation(
        "Let a model sleep and wake at each level", body=bodies.ValidateBody, answer=_LINES
    ),
    ("POST", "/v1/reload"): _Operation(
        "Read the configuration again", body=bodies.ReloadBody, says=answers.ReloadAnswer
    ),
    ("GET", "/v1/models/NAME/logs"): _Operation(
        "What a model wrote",
        _LOGS,
        answer=_LINES,
    ),
    ("GET", "/v1/logs"): _Operation(
        "What all models, the proxy, the console and muxd wrote",
        _LOGS,
        answer=_LINES,
    ),
    ("GET", "/v1/events"): _Operation(
        "What happened",
        _FILTER | {"type": {"enum": sorted(KINDS)}, "after": _COUNT, "follow": _FLAG},
        answer=_LINES,
        says=answers.EventAnswer,
    ),
    ("GET", "/v1/requests"): _Operation(
        "Clients' requests",
        _FILTER | {"key": _TEXT, "state": {"enum": list(REQUEST_STATES)}, "after": _COUNT, "follow": _FLAG},
        says=answers.RequestsAnswer,
    ),
    ("GET", "/v1/switches"): _Operation(
        "The last switches, and why", _FILTER | {"began_before": _TIME}, says=answers.SwitchesAnswer
    ),
    ("GET", "/v1/series"): _Operation(
        "Figures of every model by time",
        {"step": {"enum": list(STEPS)}, "from": _TIME, "to": _TIME, "fields": {"enum": list(FIELDS)}, "model": _TEXT},
        says=answers.SeriesAnswer,
    ),
    ("GET", "/v1/usage"): _Operation(
        "What each key used by day", {"days": _COUNT, "key": _TEXT, "model": _TEXT}, says=answers.UsageAnswer
    ),
    ("POST", "/v1/requests/ID/cancel"): _Operation("End a request", body=bodies.CancelBody, says=answers.CancelAnswer),
    ("POST", "/v1/loans"): _Operation("Lend GPUs, or have everything sleep", body=bodies.LoanBody, answer=_LINES),
    ("POST", "/v1/loans/end"): _Operation("Take GPUs back", body=bodies.NothingBody),
    ("GET", "/v1/loans/ID"): _Operation("How a loan goes", answer=_LINES),
    ("POST", "/v1/loans/ID/borrower"): _Operation("Name the process that has the GPUs", body=bodies.BorrowerBody),
    ("GET", "/v1/session"): _Operation("The session of a proxy: an upgrade to muxd/protocol.py"),
    ("POST", "/v1/ui/link"): _Operation("Make a one-time link to the console"),
    ("POST", "/v1/ui/redeem"): _Operation("Use such a link up", body=bodies.LinkBody),
    ("POST", "/v1/shutdown"): _Operation("Stop every model, and muxd", body=bodies.ShutdownBody),
    ("POST", "/v1/upgrade"): _Operation("Go on as the muxd that is installed now", body=bodies.UpgradeBody),
    **{
        ("POST", f"/v1/models/NAME/{verb}"): _Operation(
            f"Order: {verb}", body=BODIES.get(verb, bodies.OrderBody), answer=_LINES
        )
        for verb in ORDERS
    },
}


def openapi() -> dict[str, Any]:
    """Return the document."""
    used = list(
        dict.fromkeys(
            each for operation in _OPERATIONS.values() for each in (operation.body, operation.says) if each is not None
        )
    )
    references, components = msgspec.json.schema_components(used, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(used, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in _OPERATIONS.items():
        shown = path.replace("/NAME", "/{name}").replace("/ID", "/{id}")
        paths.setdefault(shown, {})[method.lower()] = _operation(shown, operation, schemas)
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "retryable", "details"],
                "properties": {
                    "code": _TEXT,
                    "message": _TEXT,
                    "retryable": {"type": "boolean"},
                    "details": {"type": "object"},
                },
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "muxd's control socket",
            "version": __version__,
            "description": "HTTP on a Unix socket: curl --unix-socket /run/muxd/muxd.sock http://muxd/v1/status",
        },
        "servers": [{"url": "http://muxd"}],
        "paths": paths,
        "components": {"schemas": {**components, "Error": error}},
    }


def _operation(path: str, operation: _Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    variables = [name for name in ("name", "id") if f"{{{name}}}" in path]
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in variables]
    parameters += [{"name": name, "in": "query", "schema": kind} for name, kind in operation.query.items()]
    said = {"schema": schemas[operation.says]} if operation.says is not None else {}
    told: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "Done, or begun", "content": {operation.answer: said}},
            "default": {
                "description": "Refused: a code, a message with what to do, and whether to try again",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if operation.body is not None:
        told["requestBody"] = {"content": {"application/json": {"schema": schemas[operation.body]}}}
    return told


def openapi_text() -> str:
    """Return the document as its file has it."""
    return json.dumps(openapi(), indent=1) + "\n"


if __name__ == "__main__":
    print(openapi_text(), end="")
