"""One request for a model: admission, worker, response, and every way in which the request can fail.

Theory of operation
-------------------
A `ProxiedRequest` stands between a client's connection (downstream) and a worker's connection (upstream), and is called
by both and by the lease.  A request goes through these states:

    queued -> asked -> answering -> done
       ^--------'  the worker was lost before the first byte of a response: the request is queued again, and replayed

queued     The lease's queue has the request, which gets `forward(grant)` once there is a worker, or `refuse`.  A client
           that streams gets comments meanwhile, behind a head of 200, so that no timeout of its own ends the wait.
asked      A worker has the request's head and body, and no byte of the response has arrived.
answering  The worker's bytes pass as they come.  They are reframed only for a client of HTTP/1.0, or where the head
           went out already; token counts are read in passing.
done       The client's connection has every byte, or an error instead: a `Refusal` before the first byte; after it an
           event of the stream, or a body that visibly breaks off.

`states` has every move.  Every end of a request calls `_let_go`, which drops the
body and returns the place at the worker; a second call does no harm.  `_close_upstream` goes before it where the
worker's connection is still open.

`deadline` belongs to the state that set it: while queued it is the next comment or the end of the wait, while asked the
next comment.  Every change of state sets it anew and calls the client's connection (`heed`), where the reactor looks.

A worker that dies while a request is `asked` is no fault of the client's: the request is queued again and replayed,
unless two workers have died with it (`_DEATHS`) or its body is longer than `REPLAY_MOST`.  The head of a stream without
an event counts as no byte, since it says nothing of the response: the next worker's events follow behind it.

A server may outlive its engine's process for a moment, and answer with an error.  By the engine's `fatal_error` such an
answer is known from an ordinary error: a response of status 500 is held until it is known whether it has them, and a
stream is looked at until its first event.
"""

import logging
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from muxd.http.request import Request
from muxd.http.response import CONTINUE, LAST_CHUNK, chunk, head, spliced
from muxd.plain_stores import plain_stores

from .answers import BAD_GATEWAY, GATEWAY_TIMEOUT, Refusal
from .auth.origins import without_rules
from .event_flow import EventFlow
from .grant import Grant
from .sockets.context import Downstream
from .sockets.known_answers import KnownAnswer, KnownStream
from .sockets.pool import Pool
from .sockets.reframing import BodyBuffer, ChunkDecoder, ChunkReencoder
from .sockets.stream_formats import EVENTS, StreamFormat, kind_of
from .sockets.upstream import Upstream, UpstreamLoss
from .states import RequestState
from .telemetry.request_record import CLIENT_GONE, NO_TOKENS, RequestRecord
from .telemetry.usage import Usage
from .way import Way

if TYPE_CHECKING:
    from .lease import ModelLease

log = logging.getLogger(__name__)

REPLAY_MOST = 1 << 20  # bytes of the longest body that is kept to be sent a second time
_MAY_BE_FATAL = (500, 503)  # statuses of answers in which the fatal error of an engine is looked for
_HELD_MOST = 64 << 10  # bytes of an error's body within which the fatal error of an engine is looked for
_DEATHS = 2  # deaths of workers with the request, after which the request is held to be the cause
_STREAM_HEAD = head(
    200,
    (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"transfer-encoding", b"chunked"),
    ),
)

_QUEUED, _ASKED, _ANSWERING, _DONE = RequestState  # globals: each look-up in the class takes 20 ns more

_LOSSES = {
    UpstreamLoss.UNREACHABLE: (BAD_GATEWAY, "worker_unreachable", "cannot be reached"),
    UpstreamLoss.DIED: (BAD_GATEWAY, "worker_died", "broke off"),
    UpstreamLoss.GARBAGE: (BAD_GATEWAY, "worker_garbled", "cannot be understood"),
    UpstreamLoss.SILENT: (GATEWAY_TIMEOUT, "upstream_timeout", "is too slow"),
}


@plain_stores
class ProxiedRequest(msgspec.Struct, eq=False):
    """One request on its way between a client's connection and a worker's: it is to be given to the way's lease.

    A struct is made, with all of its fields, in half the time of an object with an `__init__`.
    """

    _client: Downstream
    _request: Request
    _way: Way
    _lease: "ModelLease"
    _record: RequestRecord
    _lines: bytes  # header lines for the head of the response, each with its CRLF
    since: float  # when the request began to wait; monotonic
    priority: int = 0
    is_batch: bool = False  # nobody waits for the answer
    _comments: bool = True  # the client can bear comments
    state: RequestState = _QUEUED
    deadline: float = inf  # when the client's connection is to call on_deadline; monotonic
    losses: int = 0  # how often a worker was lost with the request
    takes_whole: bool = True  # a response that comes at once needs nothing but to be passed on
    unloads: bool = False  # the client lets go of the model once the response is complete
    fatal_error: bytes = b""  # of the worker's engine, in an answer that counts as none; empty: it has none
    flow: EventFlow | None = None  # of a stream that has begun
    _grant: Grant | None = None
    _upstream: Upstream | None = None
    _status: int = 0  # of the worker's response, once its head is here
    _head_size: int = 0  # bytes of the response's head, until the client has it
    _held: bytes | None = None  # of a response of which the client has nothing, until it is known to count as one
    _headed: bool = False  # the client was sent a head: the worker's, or _STREAM_HEAD for comments
    _begun: bool = False  # some of the worker's body was sent to the client
    _stream: StreamFormat | None = None  # the format of the worker's response, where it is a stream
    _client_format: StreamFormat = EVENTS  # the format in which the client gets the proxy's own comments and errors
    _comment_interval: float = inf
    _give_up_at: float = inf  # when the wait is over; monotonic
    _plain: bool = False  # the worker must not compress its response
    _usage: Usage | None = None
    _reframer: ChunkDecoder | None = None
    _legacy: bool = False  # the client speaks HTTP/1.0
    _encoded: bool = False  # the worker's response is compressed
    _deaths: int = 0  # of workers that had the request
    _died_with: int = -1  # the generation of the worker whose engine died last with the request
    _died_last: bool = False  # the last worker died with the request
    _loss: Refusal | None = None  # the error for the loss of the last worker

    def suit(self, *, streams: bool) -> None:
        """Suit the response to a client of HTTP/1.0, to the proxy's own CORS headers, and to who waits for a stream.

        Any other request is as it should be.  `streams`: the response is to be a stream of server-sent events.
        """
        if self._way.ruled:
            self.takes_whole = False
            self._lines += self._record.cors
        if self._request.http_version == "1.0":
            self._legacy = True
            self.takes_whole = False
            self._reframer = ChunkDecoder()
        elif streams and self._comments:
            self._comment_interval = self._way.pace.comment_interval

    @property
    def _own_lines(self) -> bytes:
        """Return the header lines for a head of the proxy's own."""
        return self._lines if self._way.ruled else self._lines + self._record.cors

    # Asked by the activity

    @property
    def key_name(self) -> str:
        return self._record.key

    @property
    def record(self) -> RequestRecord:
        if self.flow is not None:
            self.flow.settle()
        return self._record

    @property
    def is_running(self) -> bool:
        """Say whether a worker has the request."""
        return self.state is _ASKED or self.state is _ANSWERING

    @property
    def agent(self) -> str:
        """Return what the client calls itself, or ""."""
        return (self._request.header(b"user-agent") or b"").decode("latin-1")

    # While the request waits

    def begin_wait(self) -> None:
        """Set the deadlines of a request that its lease has queued."""
        self._give_up_at = self.since + self._lease.terms.switch_timeout
        self.deadline = min(self._give_up_at, self.since + self._comment_interval)

    def waited(self, seconds: float) -> None:
        """Add `seconds` to the time that the request has waited for a worker."""
        self._record.waited += seconds

    def on_deadline(self) -> None:
        """Send a comment to a client that streams, or refuse a request that has waited for `switch_timeout`."""
        now = monotonic()
        if self.state is not _QUEUED:
            if self._client_format is EVENTS and self._may_speak():
                seconds = now - self._record.arrived - self._record.waited
                self._comment(f"its worker has the request and gave nothing yet ({seconds:.0f} s)")
            self.deadline = now + self._comment_interval
        elif now >= self._give_up_at:
            self.deadline = inf
            self.refuse(self._loss or self._lease.late())
        else:
            if self._client_format is EVENTS:
                self._comment(self._lease.progress_text())
            self.deadline = min(self._give_up_at, now + self._comment_interval)

    def _comment(self, progress: str) -> None:
        """Send a comment with the progress, behind a head where the client has none yet."""
        comment = chunk(b": muxd: %b\n\n" % f"model {self._lease.name}: {progress}".encode())
        if not self._headed:
            self._headed = True
            self.takes_whole = False
            comment = spliced(_STREAM_HEAD, self._own_lines) + comment
        self._send(comment)

    # Called by the lease

    def forward(self, grant: Grant, fresh: bool = False) -> None:
        """Send the request to the worker, by a new connection where `fresh` says so.

        Until the response begins, a client that streams gets comments.
        """
        self._grant = grant
        self.state = _ASKED
        deadline = inf if self._comment_interval == inf else monotonic() + self._comment_interval
        if deadline != self.deadline:
            self.deadline = deadline
            self._client.heed()
        if self._died_last:
            self._died_last = False
            self._record.replays += 1
            self._lease.meter.replayed()
        pool = grant.pool
        upstream = pool.idle.pop() if pool.idle and not fresh else self._connected(pool)
        if upstream is None:
            return
        self._upstream = upstream
        # A stream that may have begun with comments cannot go on compressed.
        plain = self._plain or self._headed or self._comment_interval != inf
        request, way = self._request, self._way
        message, rest = way.worker_request(request, pool.authority, self._record.id, plain)
        upstream.ask(self, message, rest, way.pace.upstream_timeout)

    def _connected(self, pool: Pool) -> Upstream | None:
        """Return a new connection; None where there is none, which the request has been told as its loss."""
        try:
            return pool.connect()
        except OSError as error:
            self._upstream = None
            self.on_loss(UpstreamLoss.UNREACHABLE, (error.strerror or str(error)).lower())
            return None

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: with a whole response, or with the last part of a stream that has only comments."""
        request, client = self._request, self._client
        self._let_go()
        if self._headed:
            self._record.refused(refusal.status, refusal.code)
            self._cut(chunk(refusal.part(self._client_format, self._record.route)))
            return
        route = self._record.route
        answer = refusal.response(keep_alive=request.keep_alive, method=request.method, route=route)
        answer = spliced(answer, self._own_lines)
        self._record.refused(refusal.status, refusal.code)
        self._send(answer)
        client.answered(self._record)

    def lose(self, refusal: Refusal) -> None:
        """Replay a request whose worker muxd reported dead, or cut it where it cannot be replayed."""
        if not self._replay(refusal, died=True):
            self.cut(refusal)

    def cut(self, refusal: Refusal) -> None:
        """End the request with an error, in whatever state it is."""
        upstream, status = self._upstream, self._status
        if upstream is None or not status or self._held is not None:
            self._close_upstream()
            self.refuse(refusal)
            return
        last, reset = self._closing_bytes(upstream, refusal)
        self._close_upstream()
        self._let_go()
        self._record.cut(status, refusal.code)
        self._cut(last, reset=reset)

    # Called by the client's connection

    def on_kept(self) -> None:
        """Pause the worker's connection, as the client does not take the bytes fast enough."""
        if self._upstream is not None:
            self._upstream.pause()

    def on_drained(self) -> None:
        """Resume the worker's connection, as the client has taken all bytes."""
        if self._upstream is not None:
            self._upstream.resume()

    def abandon(self, lost: int) -> None:
        """End the request of a client that is gone and has not taken `lost` bytes."""
        self._close_upstream()
        self._let_go()
        self._record.end(self._status or CLIENT_GONE, "client_gone")
        self._record.delivered(lost)

    def probe(self) -> bytes:
        """Return harmless bytes to send, by which the client's connection learns whether the client still listens."""
        harmless = self._harmless_bytes()
        self._record.sent += len(harmless)
        return harmless

    def _harmless_bytes(self) -> bytes:
        """Return bytes that mean nothing to the client; empty where there are none in this state."""
        if not self._headed:
            return CONTINUE
        if not self._comments and self._client_format is EVENTS:
            return b""
        means_nothing = self._client_format is EVENTS or not self._begun
        return chunk(self._client_format.nothing) if means_nothing and self._may_speak() else b""

    def _may_speak(self) -> bool:
        """Return whether the proxy may put something of its own between two parts of a stream in chunks."""
        upstream, stream = self._upstream, self._stream
        if isinstance(self._reframer, ChunkReencoder):
            return self._reframer.between_parts()
        if upstream is None or not self._status:
            return True  # the stream has only comments so far
        if stream is None or self._encoded or self._reframer is not None:
            return False
        return upstream.between_parts(stream)

    # Called by the worker's connection

    def on_whole(self, data: bytes, known: KnownAnswer) -> None:
        """Relay a whole response: what `on_answer`, `on_bytes`, `on_complete` and `_let_go` do, with less work."""
        self._upstream = None
        self.state = _DONE
        record, client, lines = self._record, self._client, self._lines
        record.status, record.how = known.status, "ok"
        if not known.is_encoded and self._way.new_usage is not None:
            record.whole = data
        if lines:
            data = known.line + lines + data[known.line_size :]
        record.sent += len(data)
        self._lease.release(self, self._grant)
        if self.unloads:
            self._lease.unload()
        client.finish(data, record)

    def takes_stream(self, data: bytes) -> bool:
        """Return whether the beginning of a stream needs nothing but to be passed on: no engine has died in it."""
        return not self.fatal_error or data.find(self.fatal_error) < 0

    def on_stream(self, data: bytes, head_size: int, known: KnownStream) -> bool:
        """Relay the beginning of a stream: what `on_answer` and `on_bytes` do, with less work."""
        self.state = _ANSWERING
        self._status = 200
        self._stream = self._client_format = EVENTS
        self._encoded = False  # as the answer of a worker that was lost may have been
        self._headed = True
        self.takes_whole = False
        new_usage, lines = self._way.new_usage, self._lines
        if new_usage is not None:
            self._usage = new_usage()
        if len(data) > head_size:
            self._begin_body()
            self._record.events += data.count(b"\n\n")
            if self._usage is not None and data.rfind(self._usage.key) >= 0:
                self._usage.see(data)
        if lines:
            data = known.line + lines + data[known.line_size :]
        self._record.sent += len(data)
        return self._client.send(data)

    def on_answer(self, status: int, head: bytes) -> None:
        """Note the format of the response, and choose how it is reframed; `head` is in lower case."""
        self._status = status
        self.state = _ANSWERING
        self._held = b"" if status in _MAY_BE_FATAL and self.fatal_error else None
        self._head_size = len(head)
        self._stream = stream = kind_of(head)
        self._encoded = head.find(b"\r\ncontent-encoding:") >= 0
        new_usage = self._way.new_usage
        self._usage = None if new_usage is None or self._encoded else new_usage()
        if self._headed:
            continues = stream is self._client_format and status == 200 and not self._encoded
            self._reframer = ChunkReencoder(self._client_format) if continues else BodyBuffer()
        elif stream is not None:
            self._client_format = stream

    def on_bytes(self, data: bytes) -> bool:
        """Relay bytes of the response; return False where the client's connection holds too many."""
        if self.flow is not None:
            self.flow.note(monotonic())
        elif not self._begun:
            if self.fatal_error and self._is_kept_back(data):
                return True
            data, self._held = (self._held or b"") + data, None
            data = self._handle_first_bytes(data)
        if self._usage is not None:
            self._usage.see(data)
        if self._stream is not None:
            self._record.events += data.count(b"\n\n" if self._stream is EVENTS else b"}\n")
        if self._reframer is not None:
            data = self._reframer.feed(data)
        self._record.sent += len(data)
        return self._client.send(data)

    def _is_kept_back(self, data: bytes) -> bool:
        """Keep bytes from the client that the worker's engine has died, or may have died; say whether they were kept.

        With the engine's fatal error the worker is lost.
        """
        seen = data if self._held is None else self._held + data
        if self._stream is not None:
            first_part = seen[: seen.find(b"\n\n", self._head_size) + 1] or seen
            is_dead = first_part.find(self.fatal_error) >= 0
        else:
            is_dead = self._held is not None and seen.find(self.fatal_error) >= 0
        if is_dead:
            if self._head_size:
                self._held = seen  # not even the head was passed on
            generation = self._grant.generation if self._grant is not None else -1
            self.on_loss(UpstreamLoss.DIED, "its engine has ended")
            self._died_with = generation
            return True
        if self._held is None or len(seen) > _HELD_MOST:
            return False
        self._held = seen
        return True

    def _handle_first_bytes(self, data: bytes) -> bytes:
        """Return what to send of bytes that come before the body was begun; the first ones begin with the head."""
        begins = self._stream is None or len(data) > self._head_size
        if self._head_size and not self._headed:
            self._headed = True
            self.takes_whole = False
            if self._way.ruled:
                data = without_rules(data[: self._head_size]) + data[self._head_size :]
            if self._lines:
                data = spliced(data, self._lines)
        self._head_size = 0
        if begins:
            self._begin_body()
        return data

    def _begin_body(self) -> None:
        """Note that the client is about to get the first bytes of the body."""
        self._begun = True
        upstream = self._upstream
        if upstream is not None and not upstream.outbox:  # else the body's rest is still to be sent
            self._drop_body()
        if self.deadline != inf:
            self.deadline = inf
            self._client.heed()
        if self._stream:
            now, meter, record = monotonic(), self._lease.meter, self._record
            record.first_byte = now - record.arrived
            meter.first_byte(record.first_byte)
            if upstream is not None:
                self.flow = EventFlow(self._client, upstream, record, meter.gaps, self._usage, self._reframer, now)

    def on_complete(self, keep_alive: bool) -> None:
        """End the response to the client, and write its token counts to the record."""
        if self._held is not None:  # an ordinary error
            held, self.fatal_error, self._held = self._held, b"", None
            self.on_bytes(held)
        self._upstream = None
        if (reframer := self._reframer) is not None:
            if isinstance(reframer, BodyBuffer):
                self._send(chunk(reframer.as_part(self._client_format, self._status)) + LAST_CHUNK)
                keep_alive = True
            elif isinstance(reframer, ChunkReencoder):
                self._send(LAST_CHUNK)
                keep_alive = True
        self._let_go()
        tokens = self._usage.result() if self._usage is not None else NO_TOKENS
        self._record.end(self._status, "ok", tokens=tokens)
        self._client.answered(self._record, keep_alive=keep_alive)

    def on_stale(self) -> None:
        """Send the request again on a new connection: the idle one was of no use before the worker had the request."""
        assert self._grant is not None
        self.forward(self._grant, fresh=True)

    def on_loss(self, loss: UpstreamLoss, why: str) -> None:
        """Replay the request where the worker is gone and no byte was sent; else end it with the loss as error."""
        assert self._grant is not None
        status, code, problem = _LOSSES[loss]
        message = f"model {self._lease.name}: its worker {problem}: {why}"
        refusal = Refusal(status, code, message)
        worker_gone = loss in (UpstreamLoss.DIED, UpstreamLoss.UNREACHABLE)
        if not (worker_gone and self._replay(refusal, died=loss is UpstreamLoss.DIED)):
            self.cut(refusal)

    # Replay on another worker

    def _replay(self, refusal: Refusal, *, died: bool) -> bool:
        """Queue the request for the next worker; return False where it cannot be replayed.

        `died`: the worker died with the request.  A request with `_DEATHS` such deaths is refused instead.
        """
        if not self._is_replayable():
            return False
        self._close_upstream()
        assert self._grant is not None
        died = died and self._grant.generation != self._died_with  # until its server has ended, that can be asked again
        self._deaths += died
        if self._deaths >= _DEATHS:
            self.refuse(self._blame_request(refusal))
            return True
        grant, self._grant = self._grant, None
        self.state = _QUEUED
        now = monotonic()
        if died or not self.losses:
            self._give_up_at = now + self._lease.terms.switch_timeout
        self._status, self._stream, self._held = 0, None, None
        self._reframer = ChunkDecoder() if self._legacy else None
        self._loss = refusal
        self.losses += 1
        self.since = now
        self.deadline = min(self._give_up_at, now + self._comment_interval)
        self._died_last = self._died_last or died
        self._client.heed()
        self._lease.retry(self, grant)
        return True

    def _is_replayable(self) -> bool:
        """Return whether the request can be sent to another worker.

        No byte of a response may have reached the client, except the head of a stream in chunks, which is the same
        from every worker; and the body must not be longer than REPLAY_MOST.
        """
        upstream = self._upstream
        if self._begun or len(self._request.body) > REPLAY_MOST:
            return False
        if not self._status or self._held is not None:
            return True
        if self._status != 200 or upstream is None or not upstream.is_chunked():  # of a stream: else it would be begun
            return False
        return not self._legacy and not self._encoded

    def _blame_request(self, refusal: Refusal) -> Refusal:
        """Log that the request may be what kills its workers, and return `refusal` with that added."""
        blame = f"request {self._record.id.text} was with its worker at {self._deaths} deaths: it is not tried again"
        log.error("model %s: %s", self._lease.name, blame)
        return Refusal(refusal.status, refusal.code, f"{refusal.message}; {blame}")

    # The end

    def _send(self, data: bytes) -> None:
        self._record.sent += len(data)
        self._client.send(data)

    def _cut(self, last: bytes, *, reset: bool = False) -> None:
        self._record.sent += len(last)
        self._client.cut(self._record, last, reset=reset)

    def _closing_bytes(self, upstream: Upstream, refusal: Refusal) -> tuple[bytes, bool]:
        """Return the bytes that end a response which has begun, and whether the connection must be reset."""
        if isinstance(self._reframer, BodyBuffer):
            return chunk(refusal.part(self._client_format, self._record.route)), False
        framed = isinstance(self._reframer, ChunkReencoder) or upstream.is_chunked() or upstream.has_length()
        if self._legacy or not framed:
            # The response ends with the connection: a stream can end with an error event; for any other response only
            # a reset tells the client that something is missing.
            takes_event = self._stream is EVENTS and not self._encoded
            return (refusal.part(EVENTS, self._record.route), False) if takes_event else (b"", True)
        if self._stream and self._may_speak():
            return chunk(refusal.part(self._client_format, self._record.route)), False
        return b"", False  # the client notices the missing last chunk, or the missing bytes

    def _close_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _let_go(self) -> None:
        if self.state is _QUEUED:
            self.waited(monotonic() - self.since)
        self.state = _DONE
        if self.flow is not None:
            self.flow.settle()
        self._drop_body()
        self._lease.release(self, self._grant)
        if self.unloads:
            self._lease.unload()

    def _drop_body(self) -> None:
        size = len(self._request.body)
        if size:
            self._request.body = b""
            self._client.lighten(size)
