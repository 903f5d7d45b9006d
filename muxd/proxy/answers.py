"""The proxy's own errors, in the shapes that the clients of OpenAI, Anthropic and Ollama know."""

import re
from math import ceil
from typing import Any

from muxd.errors import MuxdError
from muxd.http.response import json_response

from .sockets.stream_formats import StreamFormat

BAD_GATEWAY, UNAVAILABLE, GATEWAY_TIMEOUT = 502, 503, 504

MOST_RETRY_AFTER = 60  # seconds; OpenAI's client for Python does not retry on a Retry-After of more than 120

# OpenAI's error types, by status.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# Anthropic's error types, by status.  Its "overloaded_error" goes out with 503 instead of Anthropic's own 529, which
# other clients do not know.
_ANTHROPICS_KINDS = _KINDS | {
    404: "not_found_error",
    413: "request_too_large",
    UNAVAILABLE: "overloaded_error",
    GATEWAY_TIMEOUT: "timeout_error",
}

# The paths of Ollama's and Anthropic's routes, as clients spell them; every other path gets OpenAI's shape.
_OLLAMAS = re.compile(r"/+api/")
_ANTHROPICS = re.compile(r"/+(v1/+)*messages(?![^/?])")


class Refusal(Exception):
    """An error that a request gets instead of a response.

    `retry_after`: seconds, capped at MOST_RETRY_AFTER; None where a retry is no use.
    """

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
            # Clients read a Retry-After of 0 as "at once".
            self.headers = (*headers, (b"retry-after", b"%d" % max(1, ceil(min(retry_after, MOST_RETRY_AFTER)))))

    @classmethod
    def of(cls, error: MuxdError) -> "Refusal":
        """Return the refusal with status, code and message of `error`."""
        return cls(error.status, error.code, error.message)

    def as_json(self, route: str = "") -> dict[str, Any]:
        """Return the error's JSON body: in Ollama's or Anthropic's shape on their routes, else in OpenAI's."""
        if _OLLAMAS.match(route):
            return {"error": self.message}
        error = {"error": self._error(route)}
        return {"type": "error", **error} if _ANTHROPICS.match(route) else error

    def _error(self, route: str) -> dict[str, Any]:
        kinds, fault = (_ANTHROPICS_KINDS, "api_error") if _ANTHROPICS.match(route) else (_KINDS, "server_error")
        kind = kinds.get(self.status) or ("invalid_request_error" if self.status < 500 else fault)
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    def response(self, *, keep_alive: bool, method: str = "POST", route: str = "") -> bytes:
        """Return the whole response, head included, in the shape of the route's clients."""
        return json_response(self.status, self.as_json(route), *self.headers, keep_alive=keep_alive, method=method)

    def part(self, stream: StreamFormat, route: str = "") -> bytes:
        """Return the error as the last part of a stream that breaks off."""
        return stream.error(self._error(route))
