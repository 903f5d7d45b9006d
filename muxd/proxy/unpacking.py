"""Decompresses a request's body a slice at a time, so that other clients are served meanwhile.

A few hundred compressed bytes can stand for all of max_body, and take a third of a second: a client that sent such
bodies one after the other would keep all other clients waiting.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic

from muxd.http.request import Request
from muxd.http.response import CONTINUE

from .answers import Refusal
from .requests import encodings
from .sockets.context import CompleteResponse, Downstream, PendingResponse
from .telemetry.request_record import CLIENT_GONE, RequestRecord

_SLICE = 0.002  # seconds of work before other clients have their turn


class Unpacking:
    """Works until the request's body is plain, then has the request answered."""

    deadline = inf

    def __init__(self, client: Downstream, request: Request, record: RequestRecord, codings: list[bytes]) -> None:
        self._client = client
        self._request = request
        self._record = record
        self._taken = 0  # bytes that are held for the request beside its compressed body
        self._size = len(request.body)
        self._steps = encodings.decoding(request, codings, self._grown)
        self._over = False

    def goes_on(self) -> bool:
        """Decompress for `_SLICE` seconds; return False once the body is plain.

        Raises Refusal, and gives back before what it holds beside the compressed body.
        """
        until = monotonic() + _SLICE
        try:
            for _ in self._steps:
                if monotonic() >= until:
                    return True
        except Refusal:
            self._drop()
            raise
        self._client.lighten(self._size + self._taken - len(self._request.body))
        return False

    def then(
        self, answer: Callable[[], CompleteResponse | PendingResponse], refused: Callable[[Refusal], CompleteResponse]
    ) -> "Unpacking":
        """Decompress the rest in turn with other clients, then have the request answered by `answer` or `refused`."""
        self._client.again(partial(self._turn, answer, refused))
        return self

    def _turn(
        self, answer: Callable[[], CompleteResponse | PendingResponse], refused: Callable[[Refusal], CompleteResponse]
    ) -> None:
        if self._over:
            return
        try:
            if self.goes_on():
                self._client.again(partial(self._turn, answer, refused))
                return
        except Refusal as refusal:
            self._over = True
            self._client.resume(partial(refused, refusal))
            return
        self._over = True
        self._client.resume(answer)

    def _grown(self, size: int, more: int) -> None:
        self._taken += more
        self._client.grown(size, more)

    def _drop(self) -> None:
        """Give back the memory that is held beside the compressed body."""
        self._steps = iter(())
        taken, self._taken = self._taken, 0
        self._client.lighten(taken)

    def _end(self) -> None:
        self._over = True
        self._drop()
        self._client.lighten(self._size)

    def on_deadline(self) -> None:
        """Do nothing: unpacking has no deadline, as its work is bounded by max_body."""

    def on_kept(self) -> None:
        """Do nothing: there is no response yet, and no worker to pause."""

    def on_drained(self) -> None:
        """Do nothing: there is no response yet, and no worker to resume."""

    def cut(self, refusal: Refusal) -> None:
        """Stop the work, and send `refusal`."""
        self._end()
        answer = refusal.response(keep_alive=False, method=self._request.method)
        self._record.sent += len(answer)
        self._record.refused(refusal.status, refusal.code)
        self._client.send(answer)
        self._client.answered(self._record, keep_alive=False)

    def abandon(self, lost: int) -> None:
        """Stop the work, as the client is gone and has not taken `lost` bytes."""
        self._end()
        self._record.end(CLIENT_GONE, "client_gone")
        self._record.delivered(lost)

    def probe(self) -> bytes:
        """Return an interim response, which tells the client nothing."""
        self._record.sent += len(CONTINUE)
        return CONTINUE
