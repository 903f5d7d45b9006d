"""One request for a model: admission, worker, answer, and every way it can fail.

    queued -> asked -> answering -> done
What is known of it at each step is in `grant`, `upstream` and `answering`; whoever ends it
calls `_let_go` first, so that nothing is told twice.
"""

from math import inf
from time import monotonic

from muxd.http.request import Request
from muxd.http.response import CONTINUE, chunk

from .answers import BAD_GATEWAY, GATEWAY_TIMEOUT, Refusal
from .forwarding import worker_head
from .leases import Grant, Lease
from .sockets.front import Asking
from .sockets.reframing import Unframer
from .sockets.upstream import Loss, Upstream

_KEEP_ALIVE_COMMENT = chunk(b":\n\n")

_LOSSES = {
    Loss.UNREACHABLE: (BAD_GATEWAY, "worker_unreachable", "cannot be reached"),
    Loss.DIED: (BAD_GATEWAY, "worker_died", "broke off"),
    Loss.GARBAGE: (BAD_GATEWAY, "worker_garbled", "cannot be understood"),
    Loss.SILENT: (GATEWAY_TIMEOUT, "upstream_timeout", "is too slow"),
}


class Exchange:
    """Ties a client's connection to a worker's, while one of its requests is answered."""

    __slots__ = (
        "_answering",
        "_client",
        "_first_byte_timeout",
        "_grant",
        "_lease",
        "_request",
        "_target",
        "_unframer",
        "_upstream",
        "asked_at",
        "deadline",
    )

    def __init__(
        self, client: Asking, request: Request, target: bytes, lease: Lease, first_byte_timeout: float
    ) -> None:
        self._client = client
        self._request = request
        self._target = target
        self._lease = lease
        self._first_byte_timeout = first_byte_timeout
        self._grant: Grant | None = None
        self._upstream: Upstream | None = None
        self._answering = False  # the client has some of the answer
        self._unframer = Unframer() if request.http_version == "1.0" else None
        self.asked_at = monotonic()
        self.deadline = self.asked_at + lease.switch_timeout

    # What the lease says

    def forward(self, grant: Grant) -> None:
        """Send it to the worker."""
        self._grant = grant
        self.deadline = inf
        self._ask(grant.pool.take())

    def refuse(self, refusal: Refusal) -> None:
        """It waits no longer, or found no worker: the error is its answer."""
        request, client = self._request, self._client
        self._let_go()
        client.send(refusal.response(keep_alive=request.keep_alive, method=request.method))
        client.answered(keep_alive=True)

    def cut(self, refusal: Refusal) -> None:
        """End it, wherever it is."""
        upstream = self._upstream
        if not self._answering or upstream is None:
            self._close_upstream()
            self.refuse(refusal)
            return
        last, reset = self._last_words(upstream, refusal)
        self._close_upstream()
        self._let_go()
        self._client.cut(last, reset=reset)

    # What the client's connection says

    def on_deadline(self) -> None:
        self.deadline = inf
        self._lease.give_up(self)

    def on_drained(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def abandon(self) -> None:
        self._close_upstream()
        self._let_go()

    def probe(self) -> bytes:
        if not self._answering:
            return CONTINUE
        upstream = self._upstream
        if upstream is not None and upstream.is_event_stream() and upstream.between_events():
            return _KEEP_ALIVE_COMMENT
        return b""

    # What the worker's connection says

    def on_answer(self) -> None:
        self._answering = True
        self._drop_body()

    def on_bytes(self, data: bytes | memoryview) -> bool:
        if self._unframer is not None:
            data = self._unframer.feed(data)
        return self._client.send(data)

    def on_complete(self, keep_alive: bool) -> None:
        self._upstream = None
        self._let_go()
        self._client.answered(keep_alive=keep_alive)

    def on_stale(self) -> None:
        self._ask(None)

    def on_loss(self, loss: Loss, why: str) -> None:
        assert self._grant is not None
        status, code, what = _LOSSES[loss]
        message = f"model {self._lease.name}: its worker at {self._grant.pool.url} {what}: {why}"
        self.cut(Refusal(status, code, message))

    def _ask(self, idle: Upstream | None) -> None:
        assert self._grant is not None
        pool = self._grant.pool
        try:
            self._upstream = idle or pool.connect()
        except OSError as error:
            self._upstream = None
            self.on_loss(Loss.UNREACHABLE, (error.strerror or str(error)).lower())
            return
        head = worker_head(self._request, self._target, pool.authority)
        self._upstream.ask(self, head, self._request.body, self._first_byte_timeout)

    # The end

    def _last_words(self, upstream: Upstream, refusal: Refusal) -> tuple[bytes, bool]:
        """What can still be said in the midst of an answer, and whether only a reset can end it."""
        if self._unframer is not None or not (upstream.is_chunked() or upstream.has_length()):
            # It ends with the connection: an event can follow, or else nothing but a reset
            # tells the client that something is missing.
            return (refusal.sse_event(), False) if upstream.is_event_stream() else (b"", True)
        if upstream.is_event_stream() and upstream.between_events():
            return chunk(refusal.sse_event()), False
        return b"", False  # no last chunk, or less than the promised length: the client will notice

    def _close_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _let_go(self) -> None:
        self._drop_body()
        self._lease.leave(self, self._grant)

    def _drop_body(self) -> None:
        size = len(self._request.body)
        if size:
            self._request.body = b""
            self._client.lighten(size)
