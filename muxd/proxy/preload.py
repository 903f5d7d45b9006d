"""Requests that only want a model awake, as Ollama's clients have it loaded: no worker is asked for anything."""

from muxd.http.response import spliced

from .grant import Grant
from .proxied_request import ProxiedRequest


class Preload(ProxiedRequest):
    """Waits for its model like any other request; `answer` is told once it is there."""

    answer = b""

    def forward(self, grant: Grant) -> None:
        self._grant = grant
        self._let_go()
        answer = spliced(self.answer, self._own_lines)
        self._record.sent += len(answer)
        self._record.end(200, "ok")
        self._client.send(answer)
        self._client.answered(self._record, keep_alive=True)
