"""Where every request of a client comes first: it is answered here, refused, or sent on its way."""

import logging
import time
from functools import partial
from math import inf
from typing import Any

import msgspec

from muxd.config.names import few, nearest
from muxd.errors import TlsNotSupported
from muxd.http.request import Request
from muxd.http.response import body_response, spliced

from . import refusals
from .answers import UNAVAILABLE, Refusal
from .auth.api_keys import ApiKey, Keyring, UnknownKey
from .auth.failed_keys import MOST, FailedKeys
from .auth.hosts import Hosts
from .auth.origins import Origins
from .catalogue import Catalogue, CatalogueEntry
from .deferred_response import DeferredResponse, Page
from .embedding import Embedding
from .grant import Grant
from .leases import Leases
from .preload import Preload
from .proxied_request import ProxiedRequest
from .request_timeouts import RequestTimeouts
from .requests import capabilities, encodings, ollama, request_class, routes
from .requests.embeddings import AskedEmbeddings
from .requests.plain_heads import COMMENTS_HEADER, HeadJudge
from .requests.request_info import BodyFormat, RequestInfo, no_messages, unnamed
from .requests.routes import LocalAnswer, LocalRequest, WorkerRequest
from .sockets.context import CompleteResponse, Downstream, PendingResponse
from .telemetry.recorder import Recorder
from .telemetry.request_record import RequestRecord
from .unleased_request import UnleasedRequest
from .unpacking import Unpacking
from .way import Way

log = logging.getLogger(__name__)

_JSON = b"application/json"
_OFF = (b"off", b"false", b"no", b"none", b"0")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors begin files with it, and SGLang skips it
_MOST_COMPARED = 500  # known names that an unknown one is compared with
_TLS_TOLD = 60.0  # seconds from one warning of a client that speaks TLS to the next
_OPEN = frozenset(("/health", "/"))  # GET and HEAD of these paths need no key


class RequestDispatcher:
    """Authenticates each request, finds its route and its model, and answers it or hands it to the model's lease."""

    def __init__(
        self,
        catalogue: Catalogue,
        leases: Leases,
        keyring: Keyring,
        pace: RequestTimeouts,
        records: Recorder,
        metrics: Page,
        most_failed: int = MOST,
    ) -> None:
        """Take the parts of the proxy that requests need.

        `metrics` makes the page of GET /metrics; `most_failed` is how many unknown keys an address may send a minute.
        """
        self.keyring = keyring
        self._tls_told_until = 0.0
        self._heads = HeadJudge(records.ids.names)
        self.set_rules(None, Origins(None, at_home=False))
        self._catalogue = catalogue
        self._leases = leases
        self._pace = pace
        self._recorder = records
        self._metrics = metrics
        self._failed_keys = FailedKeys(most=most_failed)
        self._most_failed = most_failed
        self._closing_refusal: Refusal | None = None

    def set_rules(self, hosts: Hosts | None, origins: Origins) -> None:
        """Check Host and Origin by these rules from now on; without `hosts` any Host is allowed."""
        self._hosts, self._origins = hosts, origins
        self._heads.forget()

    def close(self, refusal: Refusal) -> None:
        """Refuse with `refusal`, from now on, every request that would have to wait for its model."""
        self._closing_refusal = refusal

    def answer(self, client: Downstream, request: Request) -> CompleteResponse | PendingResponse:
        """Return the complete response, or the object that will send it later."""
        known = request.known
        if known is None or known.is_plain_to is not self._heads.rules:
            request.is_plain = False
            return self._check_and_answer(client, request)
        record, api_key, read = self._recorder.begin(request, client.address), None, None
        try:
            if self.keyring.by_digest:
                api_key = self._key_of(request, record)
            read = known.read
            if read is not None:
                asked = read(request)
                way: Way | None = known.ways.get(asked.model)
                if (
                    way is not None
                    and ((answered := way.entry.routes) is None or way.route in answered)
                    and not (asked.is_empty or asked.keep_alive or asked.ttl)
                ):
                    record.route, record.model = way.label, way.model
                    lines = record.id.line if api_key is None else api_key.authorize(way.model) + record.id.line
                    proxied = self._on_way(client, request, record, way, asked, api_key, lines)
                    way.lease.acquire(proxied)
                    return proxied
        except Refusal as refusal:
            # What no reader takes may be read without its mark, but not without a key.
            if read is None or not request.body.startswith(_BYTE_ORDER_MARK):
                return _refused(record, refusal, request)
        return self._answer_checked(client, request, record, api_key)

    def _check_and_answer(self, client: Downstream, request: Request) -> CompleteResponse | PendingResponse:
        """Answer a request whose head is not known to be plain: each header that concerns the proxy is looked at."""
        record = self._record(request, client.address)
        try:
            if (preflight := self._before_keys(request)) is not None:
                return _complete(record, preflight)
            api_key = self._key_of(request, record)
            if request.body and (codings := encodings.codings(request)):
                unpacking = Unpacking(client, request, record, codings)
                if unpacking.goes_on():
                    answer = partial(self._answer_checked, client, request, record, api_key)
                    return unpacking.then(answer, lambda refusal: _refused(record, refusal, request))
            self._heads.judge(request)
        except Refusal as refusal:
            return _refused(record, refusal, request)
        return self._answer_checked(client, request, record, api_key)

    def _key_of(self, request: Request, record: RequestRecord) -> ApiKey | None:
        """Return the API key of the request, by which it is recorded; None where none is needed; raise Refusal."""
        api_key = self._authenticate(request, record.address) if self.keyring.by_digest else None
        if api_key is not None:
            record.key = api_key.name
        return api_key

    def _answer_checked(
        self, client: Downstream, request: Request, record: RequestRecord, api_key: ApiKey | None
    ) -> CompleteResponse | PendingResponse:
        try:
            if request.body.startswith(_BYTE_ORDER_MARK):
                request.body = request.body[len(_BYTE_ORDER_MARK) :]
                client.lighten(len(_BYTE_ORDER_MARK))
            found = routes.find(request)
            record.route = found.label
            if isinstance(found, WorkerRequest):
                return self._send_to_worker(client, request, record, found, api_key)
            return self._answer_locally(client, request, record, found, api_key)
        except Refusal as refusal:
            return _refused(record, refusal, request)

    def precheck(self, address: str, head: Request) -> CompleteResponse | None:
        """Return a refusal where the head alone calls for one, else None: the body may be large, and never come."""
        try:
            self._before_keys(head)
            if self.keyring:
                self._authenticate(head, address)
            encodings.codings(head)
        except Refusal as refusal:
            return self.reject(address, head, refusal)
        return None

    def reject(self, address: str, head: Request, refusal: Refusal) -> CompleteResponse:
        """Return the response to bytes that are no usable request; `head` has what could be read of them."""
        if refusal.code == TlsNotSupported.code and time.monotonic() >= self._tls_told_until:
            self._tls_told_until = time.monotonic() + _TLS_TOLD
            log.warning("%s speaks TLS to the port of plain HTTP: it has to use http://, not https://", address)
        return _refused(self._record(head, address), refusal, head)

    def _record(self, request: Request, address: str) -> RequestRecord:
        record = self._recorder.begin(request, address)
        record.cors = self._origins.lines(request)
        return record

    def _before_keys(self, request: Request) -> bytes | None:
        """Check Host and Origin as browsers send them; return the response to a preflight, else None; raise Refusal."""
        if self._hosts is not None:
            self._hosts.check(request)
        if request.method == "OPTIONS":
            return self._origins.preflight(request)
        if self._origins.given:
            self._origins.check(request)
        return None

    def _answer_locally(
        self, client: Downstream, request: Request, record: RequestRecord, found: LocalRequest, api_key: ApiKey | None
    ) -> "CompleteResponse | DeferredResponse":
        if found.what is LocalAnswer.METRICS:
            self._may_see_all(api_key)
            return DeferredResponse(client, request, record, self._metrics)
        content_type, body = self._local_body(found, api_key)
        return _complete(record, _ok_response(request, content_type, body))

    def _authenticate(self, request: Request, address: str) -> ApiKey | None:
        """Return the API key of the request, None for the paths that need none; raise Refusal.

        An address that has sent too many unknown keys gets 429 for each further one, and its connection is closed.
        """
        if request.method != "POST" and routes.path_of(request) in _OPEN:
            return None
        try:
            return self.keyring.authenticate(request)
        except UnknownKey as unknown:
            wait = self._failed_keys.failed(address)
            if not wait:
                raise
            request.keep_alive = False
            message = f"more than {self._most_failed} API keys that are not known here came from {address} within "
            message += f"a minute: a right one is served at once, the next wrong one is looked at in {wait:.0f} s"
            raise Refusal(429, "too_many_failed_keys", message, retry_after=wait) from unknown

    # Requests for workers

    def _send_to_worker(
        self, client: Downstream, request: Request, record: RequestRecord, found: WorkerRequest, api_key: ApiKey | None
    ) -> "CompleteResponse | ProxiedRequest":
        asked = found.asked
        entry = self._catalogue.by_name.get(asked.model) or self._model_for(found, api_key)
        record.model = entry.name
        preloads = unloads = False
        if asked.may_preload:
            preloads, unloads = asked.preloads(), asked.unloads()
        if entry.routes is not None and found.route not in entry.routes and not preloads:
            raise capabilities.refusal(entry.told, entry.makes, found.route, asked.model or entry.name)
        if asked.is_empty and found.label == "/v1/chat/completions":
            raise no_messages("is empty")  # /v1/messages may have a "system" instead
        kept = asked.keeps() if asked.keep_alive or asked.ttl else None
        lines = record.id.line if api_key is None else api_key.authorize(entry.name) + record.id.line
        if preloads and unloads:
            self._leases.of(entry.name).unload()
            return _complete(
                record, _ok_response(request, _JSON, _to_json(ollama.done(asked.model, found.label, "unload")))
            )
        way = Way(found, entry, self._leases.of(entry.name), self._pace, ruled=self._origins.given)
        if asked.form is BodyFormat.NOTHING:
            return self._send_unleased(client, request, record, way, lines)
        kind = Preload if preloads else ProxiedRequest
        if asked.may_preload and not preloads and isinstance(asked, AskedEmbeddings):
            kind = Embedding
            translated = asked.told(request.body, entry.worker_name(asked.model) or asked.model)
            client.lighten(len(request.body) - len(translated))
            request.body = translated
        if request.is_plain and not asked.may_preload and asked.model in self._catalogue.by_name:
            way.keep_beside(request, asked.model)  # of other names there is no end, and they are looked up each time
        proxied = self._on_way(client, request, record, way, asked, api_key, lines, kind)
        if asked.may_preload:
            proxied.unloads = unloads
            if isinstance(proxied, Embedding):
                proxied.asked = asked.model
            elif isinstance(proxied, Preload):
                proxied.answer = _ok_response(request, _JSON, _to_json(ollama.done(asked.model, found.label, "load")))
        if kept is not None and (longest := self._longest_keep(api_key)):
            if kept:
                way.lease.keep(min(kept, longest))
            else:
                proxied.unloads = True
        way.lease.acquire(proxied)
        return proxied

    def _on_way(
        self,
        client: Downstream,
        request: Request,
        record: RequestRecord,
        way: Way,
        asked: RequestInfo,
        api_key: ApiKey | None,
        lines: bytes,
        kind: type[ProxiedRequest] = ProxiedRequest,
    ) -> ProxiedRequest:
        """Return a request that is to be given to the way's lease; raise Refusal."""
        if way.is_edited:
            _edit(client, request, asked, way.entry)
        lease = way.lease
        if self._closing_refusal is not None and lease.grant is None:
            raise self._closing_refusal
        record.meter = lease.meter
        streams = way.has_events and asked.stream
        # By position, as a class is called without names in half the time.
        if api_key is None and request.is_plain and not asked.service_tier:
            proxied = kind(client, request, way, lease, record, lines, record.arrived)
        else:
            priority, comments = (0, True) if api_key is None else (api_key.priority, api_key.comments)
            if streams and not request.is_plain:
                comments = comments and _takes_comments(request)
            is_batch = request_class.is_batch(request, asked.tier(), api_key)
            arrived = record.arrived
            proxied = kind(client, request, way, lease, record, lines, arrived, priority, is_batch, comments)
        if streams or way.ruled or request.http_version == "1.0":
            proxied.suit(streams=bool(streams))
        if way.entry.fatal_error:
            proxied.fatal_error = way.entry.fatal_error
        return proxied

    def _longest_keep(self, api_key: ApiKey | None) -> float:
        """Return how many seconds a client may have a model kept awake; 0: what it says of that has no effect."""
        if api_key is not None:
            return api_key.keep_alive
        return 0.0 if self.keyring else inf

    def _send_unleased(
        self,
        client: Downstream,
        request: Request,
        record: RequestRecord,
        way: Way,
        lines: bytes,
    ) -> "CompleteResponse | ProxiedRequest":
        """Send a request that only reads to the model's worker if it is awake, without asking for a lease.

        Without an awake worker the list of models is answered from the catalogue; for anything else Refusal is raised.
        """
        entry, lease = way.entry, way.lease
        grant = lease.grant
        if grant is None and entry.url is not None and self._catalogue.connected:
            grant = Grant(self._leases.pool(entry.url), 0)
            grant.pool.close()  # so that no connection is kept for later
        if grant is not None:
            record.meter = lease.meter
            unleased = UnleasedRequest(client, request, way, lease, record, lines, record.arrived)
            unleased.suit(streams=False)
            unleased.forward(grant)
            return unleased
        if way.label != "/upstream/{name}/v1/models":
            raise refusals.asleep(entry.name, entry.state)
        return _complete(record, _ok_response(request, _JSON, _to_json(self._list([entry]))))

    def _find_model(self, asked: str, api_key: ApiKey | None, *, tagged: bool = False) -> CatalogueEntry:
        """Return the model that a client calls `asked`; raise Refusal with the nearest name where there is none."""
        entry = self._catalogue.find_tagged(asked) if tagged else self._catalogue.find(asked)
        if entry is not None:
            is_usable = api_key is None or api_key.may_use(entry.name)
            if ":" in asked and is_usable and not entry.told.takes_adapters and entry.adapter(asked):
                raise capabilities.no_adapters(entry.told, asked, entry.served_names[0])
            return entry
        known = [name for other in self._visible_models(api_key) for name in other.names]
        compared = known[:_MOST_COMPARED]
        near = nearest(asked[:100], compared) or nearest(asked[:100].partition(":")[0], compared)  # without a tag
        hint = f"did you mean {near}? There are" if near is not None else "there are"
        message = f"there is no model {asked[:100]!r}; {hint}: {few(known) or 'none'}"
        message += ": GET /v1/models lists them all" if few(known).endswith(" more") else ""
        raise Refusal(404, "model_not_found", message, param="model")

    def _model_for(self, found: WorkerRequest, api_key: ApiKey | None) -> CatalogueEntry:
        """Return the model that a request is for; raise Refusal.

        A request without a body that names no model is for the only model that its key may use.
        """
        asked = found.asked
        if asked.model or asked.in_body:
            return self._find_model(asked.model, api_key, tagged=asked.form is BodyFormat.OLLAMA)
        visible = self._visible_models(api_key)
        if len(visible) != 1:
            raise unnamed()
        return visible[0]

    # Requests that the proxy answers itself

    def _visible_models(self, api_key: ApiKey | None) -> list[CatalogueEntry]:
        """Return the models that the key may use; all models where no key is configured."""
        entries = self._catalogue.entries()
        if api_key is None:
            return [] if self.keyring else entries
        return [entry for entry in entries if api_key.may_use(entry.name)]

    def _local_body(self, found: LocalRequest, api_key: ApiKey | None) -> tuple[bytes, bytes]:
        """Return content type and body of the proxy's own response; raise Refusal."""
        if found.what is LocalAnswer.ROOT:
            return b"text/plain; charset=utf-8", ollama.ROOT
        return _JSON, _to_json(self._local_value(found, api_key))

    def _list(self, entries: list[CatalogueEntry]) -> dict[str, Any]:
        return {"object": "list", "data": [self._catalogue.card(e, name) for e in entries for name in e.names]}

    def _local_value(self, found: LocalRequest, api_key: ApiKey | None) -> Any:
        match found.what:
            case LocalAnswer.HEALTH:
                return self._health()
            case LocalAnswer.MODELS:
                return self._list(self._visible_models(api_key))
            case LocalAnswer.MODEL:
                entry = self._usable_model(found.asked, api_key)
                return self._catalogue.card(entry, found.asked if found.asked in entry.names else entry.name)
            case LocalAnswer.OLLAMA_TAGS:
                return ollama.tags(self._visible_models(api_key))
            case LocalAnswer.OLLAMA_PS:
                return ollama.ps(self._visible_models(api_key))
            case LocalAnswer.OLLAMA_SHOW:
                entry = self._usable_model(found.asked, api_key, tagged=True)
                return ollama.show(entry.served_names[0], speaks_text=entry.makes != capabilities.EMBEDDINGS)
        return ollama.version()

    def _usable_model(self, asked: str, api_key: ApiKey | None, *, tagged: bool = False) -> CatalogueEntry:
        entry = self._find_model(asked, api_key, tagged=tagged)
        if api_key is not None and not api_key.may_use(entry.name):
            raise Refusal(403, "model_not_allowed", f"the API key {api_key.name} is not for model {entry.name}")
        return entry

    def _health(self) -> dict[str, Any]:
        """Return the body of GET /health.  The status is always 200: without muxd the proxy still serves its leases."""
        connected = self._catalogue.connected
        health = {"status": "ok" if connected else "degraded", "muxd": "connected" if connected else "unreachable"}
        if self.keyring:
            return health  # anybody may ask for /health, so it names no model where keys are configured
        granted = self._leases.granted()
        ready = [name for name in self._catalogue.ready() if name not in granted] if connected else []
        active = [self._catalogue.shown(name) for name in (*granted, *ready)]
        return {**health, "active_model": next(iter(active), None)}

    def _may_see_all(self, api_key: ApiKey | None) -> None:
        """Raise Refusal unless the key is for every model, as metrics tell of all of them."""
        if api_key is not None and not all(api_key.may_use(entry.name) for entry in self._catalogue.entries()):
            message = f"the API key {api_key.name} is for some models, and metrics tell of all: use one for all of them"
            raise Refusal(403, "metrics_not_allowed", message)


def _takes_comments(request: Request) -> bool:
    """Return whether the client can bear comments in its stream: some clients take every line for data."""
    value = request.header(COMMENTS_HEADER)
    return value is None or value.strip().lower() not in _OFF


def _complete(record: RequestRecord, answer: bytes) -> CompleteResponse:
    answer = spliced(answer, record.lines)
    record.sent = len(answer)
    record.end(200, "ok")
    return CompleteResponse(answer, record)


def _refused(record: RequestRecord, refusal: Refusal, request: Request) -> CompleteResponse:
    route = record.route or request.raw_path  # the path decides the error's shape where no route was found
    answer = refusal.response(keep_alive=request.keep_alive, method=request.method, route=route)
    answer = spliced(answer, record.lines)
    record.sent = len(answer)
    record.refused(refusal.status, refusal.code)
    return CompleteResponse(answer, record)


def _to_json(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _ok_response(request: Request, content_type: bytes, body: bytes) -> bytes:
    return body_response(200, content_type, body, keep_alive=request.keep_alive, method=request.method)


def shutting_down() -> Refusal:
    """Return the refusal for requests that the proxy cannot serve because it is shutting down."""
    return Refusal(UNAVAILABLE, "shutting_down", "the proxy is shutting down: send the request again", retry_after=1)


def _edit(client: Downstream, request: Request, asked: RequestInfo, entry: CatalogueEntry) -> None:
    """Apply the edits of the model's configuration to the body, its model's name included; raise Refusal."""
    is_ollama = asked.form is BodyFormat.OLLAMA  # SGLang knows no adapters on Ollama's routes
    adapter, name = ("", "") if is_ollama else (entry.adapter(asked.model), entry.worker_name(asked.model))
    body = entry.edits.apply(request, asked, adapter, name)
    if body is not None:
        client.lighten(len(request.body) - len(body))
        request.body = body
