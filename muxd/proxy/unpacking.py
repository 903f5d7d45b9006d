"""A compressed body on its way to a plain one: a little at a time, so that others are answered meanwhile.

A few hundred bytes can stand for all of max_body, and take a third of a second: whoever sends such bodies one after
the other would keep everybody waiting.
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
from .telemetry.recorder import CLIENT_GONE, RequestRecord

_SLICE = 0.002  # seconds of work, until others have their turn


class Unpacking:
    """Goes on until the request is one of a plain body, then has it answered."""

    deadline = inf

    def __init__(self, client: Downstream, request: Request, visit: RequestRecord, codings: list[bytes]) -> None:
        self._client = client
        self._request = request
        self._record = visit
        self._taken = 0  # bytes that are held for it beside the body as it came
        self._size = len(request.body)
        self._steps = encodings.decoding(request, codings, self._grown)
        self._over = False

    def goes_on(self) -> bool:
        """Do some more of the work; False once the request is plain.  Raises Refusal, and holds nothing then."""
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
        """Do the rest of the work when others have had their turn, and answer it."""

        def turn() -> None:
            if self._over:
                return
            try:
                if self.goes_on():
                    self._client.again(turn)
                    return
            except Refusal as refusal:
                self._over = True
                self._client.resume(partial(refused, refusal))
                return
            self._over = True
            self._client.resume(answer)

        self._client.again(turn)
        return self

    def _grown(self, size: int, more: int) -> None:
        self._taken += more
        self._client.grown(size, more)

    def _drop(self) -> None:
        """What is held beside the body as it came."""
        self._steps = iter(())
        taken, self._taken = self._taken, 0
        self._client.lighten(taken)

    def _end(self) -> None:
        self._over = True
        self._drop()
        self._client.lighten(self._size)

    def on_deadline(self) -> None:
        """It has none: its work is bounded."""

    def on_kept(self) -> None:
        """Nothing more is to come."""

    def on_drained(self) -> None:
        """Nothing more is to come."""

    def cut(self, refusal: Refusal) -> None:
        self._end()
        answer = refusal.response(keep_alive=False, method=self._request.method)
        self._record.sent += len(answer)
        self._record.refused(refusal.status, refusal.code)
        self._client.send(answer)
        self._client.answered(self._record, keep_alive=False)

    def abandon(self, lost: int) -> None:
        self._end()
        self._record.end(CLIENT_GONE, "client_gone")
        self._record.delivered(lost)

    def probe(self) -> bytes:
        self._record.sent += len(CONTINUE)
        return CONTINUE
