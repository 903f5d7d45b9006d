"""The proxy's own answers, in the shape that OpenAI's clients know."""

from math import ceil
from typing import Any

from muxd.errors import MuxdError
from muxd.http.response import json_response

from .sockets.streams import Stream

BAD_GATEWAY, UNAVAILABLE, GATEWAY_TIMEOUT = 502, 503, 504


#: OpenAI's and Anthropic's names for them.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that gets an error instead of its answer.  `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers
        if retry_after is not None:
            # Never 0: clients take it as "at once".
            self.headers = (*headers, (b"retry-after", b"%d" % max(1, ceil(retry_after))))

    @classmethod
    def of(cls, error: MuxdError) -> "Refusal":
        return cls(error.status, error.code, error.message)

    def as_json(self, route: str = "") -> dict[str, Any]:
        """As OpenAI's clients know it; on the routes of others, as theirs do."""
        if route.startswith("/api/"):
            return {"error": self.message}  # Ollama's
        kind = _KINDS.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        error = {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        return {"type": "error", **error} if route.startswith("/v1/messages") else error

    def response(self, *, keep_alive: bool, method: str = "POST", route: str = "") -> bytes:
        return json_response(self.status, self.as_json(route), *self.headers, keep_alive=keep_alive, method=method)

    def part(self, stream: Stream) -> bytes:
        """The last part of a stream that breaks off."""
        return stream.error(self.as_json()["error"])
