"""The control API's routes: which right each needs, and the handler that answers it."""

from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches
from functools import partial
from math import inf
from pathlib import Path
from urllib.parse import unquote

import trio
from msgspec import Struct
from msgspec.structs import replace

from muxd.borrowers import Borrower
from muxd.control.bodies import (
    FILTER_FIELDS,
    BorrowerBody,
    CancelBody,
    HoldBody,
    LinkBody,
    LoanBody,
    NothingBody,
    OrderBody,
    ReloadBody,
    ScaleBody,
    ShutdownBody,
    SleepBody,
    SwitchBody,
    UpgradeBody,
    ValidateBody,
    body_of,
    check_fields,
    entry_filter,
    log_streams,
    log_window,
    parse_choice,
    parse_count,
    parse_flag,
    parse_time,
    parse_words,
)
from muxd.control.rights import Peer, Right, Rights, peer_of, user_name
from muxd.control.service import ControlService, Message
from muxd.control.session_route import serve_session
from muxd.control.streaming import Logs, relay
from muxd.core.events import Verb
from muxd.core.spec import LoanTerms
from muxd.errors import BadRequest, LoanNotFound, MethodNotAllowed, PermissionDenied, RouteNotFound
from muxd.history.event_kinds import KINDS
from muxd.history.series import FIELDS, STEPS, SeriesQuery
from muxd.history.usage_book import KEPT_DAYS
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits, Share, Standing
from muxd.protocol import UPGRADE

#: The orders that an operator may give for one model, each with the words that complete "your user may not ...".
DEEDS = {
    Verb.START: "start models",
    Verb.STOP: "stop models",
    Verb.RESTART: "restart models",
    Verb.SLEEP: "put models to sleep",
    Verb.SCALE: "scale models",
}
ORDERS = tuple(DEEDS)

#: The bodies of orders that have more than OrderBody has.
BODIES: dict[Verb, type[OrderBody]] = {Verb.SLEEP: SleepBody, Verb.SCALE: ScaleBody}

#: Ranks of peers.  Readers have the smallest share of connections.  A proxy needs few connections, its session and one
#: for muxd's events, and a part in what is reserved, so that readers cannot keep it out.  Operators have some of their
#: own.
_READS, _LEASES, _OPERATES = range(3)
LIMITS = ServerLimits(
    reserved=(1024, 64),
    shares=(Share(connections=32, pace=20.0, burst=40.0), Share(connections=1024, pace=400.0, burst=800.0)),
    strangers=Share(connections=256, pace=60.0, burst=120.0),
)

#: Prometheus' text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Characters: the longest path that is parsed (no route with the longest model name is longer), and of an unknown path
#: as many as are compared with the routes, and as are quoted in the error.
_LONGEST_PATH, _LONGEST_COMPARED, _LONGEST_TOLD = 4096, 64, 256

Answer = Callable[[Request, ResponseWriter, str], Awaitable[None]]  # the str: the NAME or ID in the path

_LOG_FIELDS = ("lines", "since", "until", "follow", "stream")

#: States of a request, as they are asked for.
REQUEST_STATES = ("running", "waiting", "ended")


class ControlRoute(Struct, frozen=True):
    method: str
    path: str  # NAME or ID stands for one variable part
    right: Right
    answer: Answer
    deed: str = ""  # completes "your user may not ..."; "" where every user with a right at the socket may do it
    fields: Sequence[str] = ()  # of its query


class ControlRoutes:
    """The handlers of the control API: they answer from one ControlService, as far as the peer's rights go."""

    def __init__(self, service: ControlService, rights: Rights) -> None:
        self._service = service
        self._rights = rights
        self._logs = Logs()
        self._routes = {
            (route.path, route.method): route
            for route in (
                ControlRoute("GET", "/v1/version", Right.READ, self._version),
                ControlRoute("GET", "/v1/status", Right.READ, self._status),
                ControlRoute("GET", "/metrics", Right.READ, self._metrics),
                ControlRoute("GET", "/v1/proxy", Right.LEASE, self._proxy_settings, "read the proxy's settings"),
                ControlRoute("GET", "/v1/models/NAME", Right.READ, self._model),
                ControlRoute("POST", "/v1/models/NAME/switch", Right.OPERATE, self._switch, "switch models"),
                ControlRoute("POST", "/v1/models/NAME/hold", Right.OPERATE, self._hold, "hold models"),
                ControlRoute("POST", "/v1/models/NAME/unhold", Right.OPERATE, self._unhold, "let held models go"),
                ControlRoute("POST", "/v1/loans", Right.OPERATE, self._lend, "lend GPUs"),
                ControlRoute("POST", "/v1/loans/end", Right.OPERATE, self._end_yields, "take GPUs back"),
                ControlRoute("GET", "/v1/loans/ID", Right.OPERATE, self._attend_loan, "lend GPUs"),
                ControlRoute("POST", "/v1/loans/ID/borrower", Right.OPERATE, self._borrow, "lend GPUs"),
                *(self._order_route(verb) for verb in ORDERS),
                ControlRoute("POST", "/v1/models/NAME/validate", Right.OPERATE, self._validate, "validate models"),
                ControlRoute("POST", "/v1/reload", Right.OPERATE, self._reload, "reload the configuration"),
                ControlRoute(
                    "GET", "/v1/models/NAME/logs", Right.OPERATE, self._send_logs, "read the models' logs", _LOG_FIELDS
                ),
                ControlRoute(
                    "GET", "/v1/logs", Right.OPERATE, self._send_all_logs, "read the models' logs", _LOG_FIELDS
                ),
                ControlRoute(
                    "GET", "/v1/events", Right.READ, self._events, fields=(*FILTER_FIELDS, "type", "after", "follow")
                ),
                ControlRoute(
                    "GET",
                    "/v1/requests",
                    Right.OPERATE,
                    self._requests,
                    "see clients' requests",
                    (*FILTER_FIELDS, "key", "state", "after", "follow"),
                ),
                ControlRoute(
                    "GET", "/v1/switches", Right.READ, self._switches, fields=(*FILTER_FIELDS, "began_before")
                ),
                ControlRoute(
                    "GET", "/v1/series", Right.READ, self._series, fields=("step", "from", "to", "fields", "model")
                ),
                ControlRoute("GET", "/v1/usage", Right.READ, self._usage, fields=("days", "key", "model")),
                ControlRoute("POST", "/v1/requests/ID/cancel", Right.OPERATE, self._cancel, "cancel requests"),
                ControlRoute("GET", "/v1/session", Right.LEASE, self._hold_session, "hold leases"),
                ControlRoute("POST", "/v1/ui/link", Right.OPERATE, self._make_link, "operate by the console"),
                ControlRoute("POST", "/v1/ui/redeem", Right.OPERATE, self._redeem_link, "redeem links of the console"),
                ControlRoute("POST", "/v1/shutdown", Right.OPERATE, self._shutdown, "shut muxd down"),
                ControlRoute("POST", "/v1/upgrade", Right.OPERATE, self._upgrade, "upgrade muxd"),
            )
        }
        self._paths = sorted({path for path, _ in self._routes})

    def _order_route(self, verb: Verb) -> ControlRoute:
        return ControlRoute("POST", f"/v1/models/NAME/{verb}", Right.OPERATE, partial(self._order, verb), DEEDS[verb])

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        """Answer one request, as the handler of serve_http.

        Raises PermissionDenied, RouteNotFound, MethodNotAllowed, BadRequest for a field of the query that is not
        one of the route's, and what the route's own handler raises.
        """
        rights = self._rights.of(peer_of(exchange.peer))
        if not rights:
            raise PermissionDenied(f"your user may not ask this muxd: {self._rights.way_to(Right.OPERATE)}")
        route, variable = self._find_route(request)
        if route.right not in rights:
            raise PermissionDenied(f"your user may not {route.deed}: {self._rights.way_to(route.right)}")
        check_fields(request.query, route.fields)
        await route.answer(request, exchange, variable)

    def _find_route(self, request: Request) -> tuple[ControlRoute, str]:
        """Return the request's route and the NAME in its path; raises RouteNotFound, MethodNotAllowed."""
        path, variable = _split_path(request.raw_path)
        if path not in self._paths:
            raise self._not_found(path)
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((path, method))
        if route is None:
            allowed = [known for where, known in self._routes if where == path]
            allowed += ["HEAD"] if "GET" in allowed else []
            raise MethodNotAllowed(f"{path} takes {' and '.join(allowed)}, not {request.method}", allowed=allowed)
        return route, variable

    def _not_found(self, path: str) -> RouteNotFound:
        nearest = get_close_matches(path[:_LONGEST_COMPARED], self._paths, n=1, cutoff=0.0)[0]
        path = path if len(path) <= _LONGEST_TOLD else f"{path[:_LONGEST_TOLD]}..."
        return RouteNotFound(f"there is no {path}; the nearest is {nearest}", nearest=nearest, known=self._paths)

    async def _version(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await exchange.send_json(200, self._service.version())

    async def _status(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        status = self._service.status()
        await exchange.send_json(200, {**status, "models": [self._without_log(m, exchange) for m in status["models"]]})

    async def _metrics(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await exchange.send_body(METRICS_TYPE, await self._service.metrics())

    async def _proxy_settings(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await exchange.send_json(200, self._service.proxy_settings())

    async def _model(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        model = self._service.model_status(self._service.resolve(name))
        await exchange.send_json(200, self._without_log(model, exchange))

    def _without_log(self, model: Message, exchange: ResponseWriter) -> Message:
        """Return a model's status as the peer may see it: without log lines where the peer is no operator.

        SGLang writes its API keys to its log and, if it is told to, its requests.
        """
        if Right.OPERATE in self._rights.of(peer_of(exchange.peer)) or not model.get("last_exit"):
            return model
        return {**model, "last_exit": {**model["last_exit"], "log_tail": []}}

    async def _switch(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        body = body_of(request, SwitchBody)
        name = self._service.resolve(name)
        await _send_progress(exchange, name, self._service.switch(name, _operator(exchange)), wait=body.wait)

    async def _hold(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        body = body_of(request, HoldBody)
        name = self._service.resolve(name)
        await _send_progress(exchange, name, self._service.hold(name, body.for_s, _operator(exchange)), wait=body.wait)

    async def _unhold(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        body_of(request, NothingBody)
        name = self._service.resolve(name)
        self._service.unhold(name, _operator(exchange))
        await exchange.send_json(200, {"model": name, "held": False})

    async def _lend(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        body = body_of(request, LoanBody)
        if body.borrowed and not body.gpus:
            raise BadRequest("gpus: name the GPUs that are lent", field="gpus")
        if not body.borrowed and (body.gpus or body.preemptible):
            field = "gpus" if body.gpus else "preemptible"
            raise BadRequest(
                f"{field}: without a borrower all GPUs are given up, until their time is over", field=field
            )
        until = inf if body.for_s is None else trio.current_time() + body.for_s
        gpus = frozenset(map(str, body.gpus))
        terms = LoanTerms(gpus, until, body.borrowed, body.preemptible, body.refuses)
        number, messages = self._service.lend(terms, _operator(exchange))
        try:
            await relay(exchange, messages)
        finally:
            self._service.leave_loan(number)

    async def _attend_loan(self, request: Request, exchange: ResponseWriter, number: str) -> None:
        await relay(exchange, self._service.attend_loan(_number(number)))

    async def _borrow(self, request: Request, exchange: ResponseWriter, number: str) -> None:
        peer = peer_of(exchange.peer)
        uid = None if self._rights.owns(peer) else peer.uid
        await self._service.borrow(_number(number), Borrower.of(body_of(request, BorrowerBody).pid, uid))
        await exchange.send_json(200, {"loan": _number(number)})

    async def _end_yields(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        body_of(request, NothingBody)
        await exchange.send_json(200, {"ended": self._service.end_yields()})

    async def _order(self, verb: Verb, request: Request, exchange: ResponseWriter, name: str) -> None:
        body = body_of(request, BODIES.get(verb, OrderBody))
        level = body.level if isinstance(body, SleepBody) else None
        replicas = body.replicas if isinstance(body, ScaleBody) else 0
        name = self._service.resolve(name)
        by = _operator(exchange)
        progress = self._service.order(name, verb, now=body.now, level=level, replicas=replicas, by=by)
        await _send_progress(exchange, name, progress, wait=body.wait)

    async def _validate(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        body = body_of(request, ValidateBody)
        name = self._service.resolve(name)
        number, messages = self._service.validate(name, body.levels, body.cycles, _operator(exchange))
        try:
            await relay(exchange, messages)
        finally:
            self._service.end_validation(name, number)

    async def _reload(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        body = body_of(request, ReloadBody)
        await exchange.send_json(200, await self._service.reload(dry_run=body.dry_run, by=_operator(exchange)))

    async def _send_logs(self, request: Request, exchange: ResponseWriter, name: str) -> None:
        await self._send_files(request, exchange, *self._service.log_of(name))

    async def _send_all_logs(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await self._send_files(request, exchange, self._service.all_logs(), None)

    async def _send_files(
        self, request: Request, exchange: ResponseWriter, known: dict[str, Path], lost: Message | None
    ) -> None:
        query = request.query
        window, follow, streams = log_window(query), parse_flag(query, "follow", False), log_streams(query)
        if follow and window.until is not None:
            raise BadRequest("until: what is followed has no end; leave follow or until out", field="until")
        files = {label: path for label, path in known.items() if label.rpartition(" ")[2] in streams}
        if follow or window.lines is None:
            await self._logs.send_stream(exchange, files, window, follow=follow)
        else:
            await self._logs.send_list(exchange, files, window, lost)

    async def _events(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        query = request.query
        after, follow = parse_count(query, "after", None), parse_flag(query, "follow", True)
        model = self._service.resolve(query["model"]) if "model" in query else None
        wanted = entry_filter(query, model, parse_words(query, "type", KINDS))
        await relay(exchange, self._service.events(after, follow=follow, wanted=wanted))

    async def _requests(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        query = request.query
        states = parse_words(query, "state", REQUEST_STATES)
        model = self._service.resolve(query["model"]) if "model" in query else None
        if not parse_flag(query, "follow", False):
            wanted = entry_filter(query, model, frozenset({"request"}), lines=100)
            await exchange.send_json(200, await self._service.requests(states, wanted))
            return
        after = parse_count(query, "after", None)
        await relay(exchange, self._service.ended_requests(after, entry_filter(query, model)))

    async def _switches(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        query = request.query
        wanted = entry_filter(query, self._service.resolve(query["model"]) if "model" in query else None)
        began_before = parse_time(query, "began_before", inf)
        await exchange.send_json(200, {"switches": self._service.recent_switches(wanted, began_before)})

    async def _series(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        query = request.query
        wanted = SeriesQuery(
            parse_choice(query, "step", tuple(STEPS)),
            parse_time(query, "from", 0.0) if "from" in query else None,
            parse_time(query, "to", inf),
            tuple(field for field in FIELDS if field in parse_words(query, "fields", FIELDS)),
            self._service.resolve(query["model"]) if "model" in query else None,
        )
        await exchange.send_json(200, self._service.series(wanted))

    async def _usage(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        query = request.query
        days = parse_count(query, "days", 7, KEPT_DAYS)
        model = self._service.resolve(query["model"]) if "model" in query else None
        await exchange.send_json(200, self._service.usage(max(1, days or 0), query.get("key"), model))

    async def _cancel(self, request: Request, exchange: ResponseWriter, id: str) -> None:
        body_of(request, CancelBody)
        await exchange.send_json(200, await self._service.cancel_request(id, _operator(exchange)))

    async def _hold_session(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await serve_session(self._service, request, exchange)

    async def _make_link(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        await exchange.send_json(200, self._service.make_console_link())

    async def _redeem_link(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        self._service.redeem_console_link(body_of(request, LinkBody).token)
        await exchange.send_json(200, {"redeemed": True})

    async def _shutdown(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        body = body_of(request, ShutdownBody)
        if body.leave_workers:
            await self._hand_over(exchange, {"stopping": True}, upgrade=False, now=body.now)
        else:
            self._service.shutdown(by=_operator(exchange))
            await exchange.send_json(202, {"stopping": True})

    async def _upgrade(self, request: Request, exchange: ResponseWriter, _: str) -> None:
        body = body_of(request, UpgradeBody)
        await self._hand_over(exchange, {"upgrading": True}, upgrade=True, now=body.now)

    async def _hand_over(self, exchange: ResponseWriter, answer: Message, *, upgrade: bool, now: bool) -> None:
        """Leave once that is possible; who ordered it is told so before, and may be gone by then."""
        await self._service.prepare_handover(upgrade=upgrade, now=now)
        try:
            await exchange.send_json(202, {**answer, **self._service.version()})
        finally:
            self._service.leave()


def _operator(exchange: ResponseWriter) -> str:
    """Return the name of the user who asks."""
    return user_name(peer_of(exchange.peer).uid)


def _split_path(raw_path: str) -> tuple[str, str]:
    """Return the path with NAME or ID in place of its variable part, and that part, percent-decoded.

    A served name may hold slashes.  Where the client did not encode them, all parts after
    /v1/models/ are the name, except a last part that is an action.
    """
    if len(raw_path) > _LONGEST_PATH:
        return raw_path, ""
    parts = [unquote(part) for part in raw_path.split("/")]
    if parts[:3] == ["", "v1", "requests"] and len(parts) > 4 and parts[-1] == "cancel":
        return "/v1/requests/ID/cancel", "/".join(parts[3:-1])
    if parts[:3] == ["", "v1", "loans"] and len(parts) > 3 and parts[3] != "end":
        return f"/v1/loans/ID{'/borrower' if parts[4:] == ['borrower'] else ''}", parts[3]
    if parts[:3] != ["", "v1", "models"] or len(parts) < 4 or not parts[3]:
        return "/".join(parts), ""
    if len(parts) > 4 and parts[-1] in ("switch", "hold", "unhold", "validate", "logs", *ORDERS):
        return f"/v1/models/NAME/{parts[-1]}", "/".join(parts[3:-1])
    return "/v1/models/NAME", "/".join(parts[3:])


def _number(text: str) -> int:
    """Return the number of a loan in a path; raises LoanNotFound."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise LoanNotFound(f"there is no loan {text[:20]!r}; a loan has a number")
    return int(text)


async def _send_progress(
    exchange: ResponseWriter, name: str, progress: trio.MemoryReceiveChannel[Message], *, wait: bool
) -> None:
    """Send the progress of an operator's order until its end or, without `wait`, only that it was accepted."""
    if wait:
        await relay(exchange, progress)
    else:
        progress.close()
        await exchange.send_json(202, {"accepted": True, "model": name})


def _standing(peer: Peer, rights: Rights) -> Standing:
    allowed = rights.of(peer)
    rank = _OPERATES if Right.OPERATE in allowed else _LEASES if Right.LEASE in allowed else _READS
    return Standing(peer.uid, rank)


async def serve_control(
    service: ControlService,
    listener: trio.SocketListener,
    rights: Rights,
    limits: ServerLimits | None = None,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control API until cancelled, or until `listener` is closed and the last client has disconnected.

    Closes `listener`.  Readers and the proxy have a limited share of connections and of time each, so that operators
    are always served.
    """
    routes = ControlRoutes(service, rights)
    await serve_http(
        routes.answer,
        [listener],
        replace(limits or LIMITS, upgrades=(UPGRADE,)),
        judge=lambda connection: _standing(peer_of(connection), rights),
        task_status=task_status,
    )
