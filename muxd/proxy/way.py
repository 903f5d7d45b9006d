"""The way of requests to a model's worker: what those of one model on one route have in common.

A program asks for the same model by the same head again and again (see `requests/plain_heads`).  The way that its first
request took, with every check of head, route and model, is kept beside the head, under the name by which the model was
asked for, as long as rules, keys and configuration are the same.  What can differ from request to request is looked at
each time: the key, the body, what the worker is known to answer, and the lease.
"""

from typing import TYPE_CHECKING

from muxd.http.figures import LENGTHS, LISTED
from muxd.http.request import Request

from .forwarding import around_length, worker_head
from .request_timeouts import RequestTimeouts
from .requests import routes
from .telemetry.request_ids import RequestId
from .telemetry.usage import USAGE_READERS

if TYPE_CHECKING:
    from .catalogue import CatalogueEntry
    from .lease import ModelLease

_MOST_WAYS = 16  # names of models that are kept of one head
_MOST_SENT = 8  # heads for workers that are kept of one way
_JOIN_BELOW = 64 * 1024  # bytes: a smaller body is sent in one system call with its head


class Way:
    """One way.

    `is_edited`: bodies are changed before they are sent.  `ruled`: CORS headers are the proxy's, not the worker's.
    """

    __slots__ = (
        "_sent",
        "_sent_plain",
        "entry",
        "has_events",
        "is_edited",
        "label",
        "lease",
        "model",
        "new_usage",
        "pace",
        "route",
        "ruled",
        "target",
    )

    def __init__(
        self,
        found: routes.WorkerRequest,
        entry: "CatalogueEntry",
        lease: "ModelLease",
        pace: RequestTimeouts,
        *,
        ruled: bool,
    ) -> None:
        self.target = found.target
        self.label = found.label
        self.route = found.route
        self.has_events = found.has_events
        self.entry = entry
        self.model = entry.name
        self.is_edited = is_edited(entry, found.asked.model)
        self.lease = lease
        self.pace = pace
        self.ruled = ruled
        self.new_usage = USAGE_READERS.get(found.label)
        # What is around the body's length in a worker's head, by its authority; a plain head asks for no coding.
        # The API key is in none: whether there are keys at all is among the rules that the way lasts as long as.
        self._sent: dict[bytes, tuple[bytes, bytes]] | None = None
        self._sent_plain: dict[bytes, tuple[bytes, bytes]] | None = None

    def keep_beside(self, request: Request, asked: str) -> None:
        """Keep this way for further requests with the head of `request`, which is plain, where it has a listed target.

        Where the figure of Content-Length is all that their heads differ in, the rest is kept for their workers, too.
        """
        known = request.known
        if known is not None and (read := routes.reader_of(known.target)) is not None:
            if len(known.ways) >= _MOST_WAYS:
                known.ways.clear()
            known.ways[asked] = self
            known.read = read
            if known.is_alike:
                self._sent, self._sent_plain = {}, {}

    def worker_request(self, request: Request, authority: bytes, id: RequestId, plain: bool) -> tuple[bytes, bytes]:
        """Return the request for a worker, whose head is that of `forwarding.worker_head`; a long body is apart."""
        sent, line, body = self._sent_plain if plain else self._sent, id.line if id.is_made else b"", request.body
        if sent is None or id.drop:
            drop = (id.drop,) if id.drop else ()
            head = worker_head(request, self.target, authority, line, drop, plain=plain)
            return (head + body, b"") if len(body) < _JOIN_BELOW else (head, body)
        parts = sent.get(authority)
        if parts is None:
            if len(sent) >= _MOST_SENT:
                sent.clear()
            parts = sent[authority] = around_length(request, self.target, authority, plain=plain)
        size = len(body)
        figure = LENGTHS[size] if size < LISTED else b"%d" % size
        return b"".join((parts[0], figure, parts[1], line, b"\r\n", body)), b""


def is_edited(entry: "CatalogueEntry", asked: str) -> bool:
    """Return whether the body of a request for the model, named `asked`, has to be changed for its worker."""
    return not entry.edits.idle or ":" in asked or asked in entry.renamed
