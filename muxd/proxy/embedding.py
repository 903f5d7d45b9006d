"""Requests for embeddings in Ollama's words: the worker's response is gathered whole, then translated."""

from time import monotonic
from typing import ClassVar

from muxd.http.response import json_response, spliced

from .answers import BAD_GATEWAY, UNAVAILABLE, Refusal
from .proxied_request import ProxiedRequest
from .requests.embeddings import Vectors
from .sockets.reframing import Collector, error_of
from .telemetry.request_record import NO_TOKENS


class Embedding(ProxiedRequest, eq=False):
    """A request whose client gets nothing before the worker's response is complete; until then it can be replayed."""

    MOST: ClassVar[int] = 128 << 20  # bytes of all responses together that are being gathered
    held: ClassVar[int] = 0  # bytes of them now

    asked: str = ""  # what the client calls the model
    takes_whole: bool = False
    _plain: bool = True
    _worker_status: int = 0  # the status of the worker's response; `_status` stays 0, as the client has no response yet
    _gathered: Collector | None = None

    def on_answer(self, status: int, head: bytes) -> None:
        """Note the worker's status, and start to gather its body."""
        self._worker_status, self._gathered = status, Collector()

    def on_bytes(self, data: bytes) -> bool:
        """Gather bytes, head included; drop them where all such responses together exceed MOST."""
        gathered = self._gathered
        if gathered is not None:
            before = gathered.size
            gathered.feed(data)
            Embedding.held += gathered.size - before
            if Embedding.held > self.MOST:
                self._drop_gathered()
        return True

    def on_complete(self, keep_alive: bool) -> None:
        """Send the translated response, or an error where the body was dropped or cannot be read."""
        self._upstream = None
        if self._gathered is None:
            message = f"model {self._lease.name}: there is no room for all its embeddings: ask for fewer texts at once"
            self.refuse(Refusal(UNAVAILABLE, "answer_too_large", message, retry_after=1))
            return
        body = self._gathered.body()
        if self._worker_status >= 300:
            self._respond(self._worker_status, {"error": str(error_of(body, self._worker_status)["message"])})
            return
        try:
            vectors = Vectors(body)
        except ValueError as error:
            message = f"model {self._lease.name}: its worker cannot be understood: {error}"
            self.refuse(Refusal(BAD_GATEWAY, "worker_garbled", message))
            return
        record = self._record
        answer = vectors.answer(self.asked, record.route, monotonic() - record.arrived, record.waited)
        self._respond(200, answer, (vectors.tokens, 0, 0))

    def _respond(self, status: int, value: object, tokens: tuple[int, int, int] = NO_TOKENS) -> None:
        answer = json_response(status, value, keep_alive=self._request.keep_alive, method=self._request.method)
        self._let_go()
        self._record.end(status, "ok", tokens=tokens)
        self._send(spliced(answer, self._own_lines))
        self._client.answered(self._record)

    def _drop_gathered(self) -> None:
        if self._gathered is not None:
            Embedding.held -= self._gathered.size
        self._gathered = None

    def _close_upstream(self) -> None:
        self._drop_gathered()
        super()._close_upstream()

    def _let_go(self) -> None:
        self._drop_gathered()
        super()._let_go()
