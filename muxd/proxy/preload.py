"""Requests that only want a model awake, as Ollama's clients load a model: the worker gets no request."""

from muxd.http.response import spliced

from .grant import Grant
from .proxied_request import ProxiedRequest


class Preload(ProxiedRequest, eq=False):
    """A request that waits for its model like any other; the client gets `answer` once the model is awake."""

    answer: bytes = b""

    def forward(self, grant: Grant, fresh: bool = False) -> None:
        """Send `answer` to the client instead of the request to the worker."""
        self._grant = grant
        self._let_go()
        answer = spliced(self.answer, self._own_lines)
        self._record.sent += len(answer)
        self._record.end(200, "ok")
        self._client.send(answer)
        self._client.answered(self._record)
