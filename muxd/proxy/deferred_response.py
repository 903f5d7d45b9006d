"""The response to a request that the proxy answers itself, but not at once."""

from collections.abc import Callable
from math import inf

from muxd.http.request import Request
from muxd.http.response import CONTINUE, body_response, spliced

from .answers import Refusal
from .sockets.context import Downstream
from .telemetry.request_record import CLIENT_GONE, RequestRecord

#: A function that begins to make a metrics page, and calls back with the page's content type and its bytes.
Page = Callable[[Callable[[bytes, bytes], None]], None]


class DeferredResponse:
    """Waits for a metrics page, and sends it to the client."""

    deadline = inf

    def __init__(self, client: Downstream, request: Request, record: RequestRecord, page: Page) -> None:
        self._client = client
        self._request = request
        self._record = record
        self._over = False
        page(self._deliver)

    def _deliver(self, content_type: bytes, body: bytes) -> None:
        request = self._request
        if self._over:
            return
        self._record.end(200, "ok")
        self._answer(body_response(200, content_type, body, keep_alive=request.keep_alive, method=request.method))

    def _answer(self, answer: bytes) -> None:
        answer = spliced(answer, self._record.lines)
        self._over = True
        self._record.sent += len(answer)
        self._client.send(answer)
        self._client.answered(self._record)

    def on_deadline(self) -> None:
        """Do nothing: this response has no deadline, as the maker of the page bounds its time."""

    def on_kept(self) -> None:
        """Do nothing: the page was sent whole, and there is no worker to pause."""

    def on_drained(self) -> None:
        """Do nothing: the page was sent whole, and there is no worker to resume."""

    def cut(self, refusal: Refusal) -> None:
        """Send `refusal` instead of the page."""
        self._record.refused(refusal.status, refusal.code)
        self._answer(refusal.response(keep_alive=self._request.keep_alive, method=self._request.method))

    def abandon(self, lost: int) -> None:
        """Drop the page, as the client is gone and has not taken `lost` bytes."""
        self._over = True
        self._record.end(CLIENT_GONE, "client_gone")
        self._record.delivered(lost)

    def probe(self) -> bytes:
        """Return an interim response, which tells the client nothing."""
        self._record.sent += len(CONTINUE)
        return CONTINUE
