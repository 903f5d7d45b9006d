"""ASGI middleware for vLLM's own server: its control routes are for muxd alone.

muxd puts this file and the key beside each other into a launch's work folder (mode 0700), and names the class to vLLM
as `--middleware`.  vLLM's `--api-key` guards /v1 alone, and the routes for sleep, wake and remote calls, which
VLLM_SERVER_DEV_MODE opens, have no key at all: any user of the host could use them.  It runs in vLLM's interpreter,
which has nothing of muxd: only the standard library is at hand.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

#: In the work folder, beside this file.
KEY_FILE = "admin-key"

#: What everybody may ask; all other routes take the admin key.  Seen in vLLM 0.32.0.
OPEN = ("/health", "/ping", "/version", "/metrics", "/load", "/is_sleeping", "/tokenize", "/detokenize")
OPEN_BELOW = ("/v1/", "/v2/", "/pooling", "/classify", "/score", "/rerank", "/generative_scoring", "/invocations")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RequireAdminKey:
    """Answers 401 to whoever asks a control route without the admin key."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        key = Path(__file__).with_name(KEY_FILE).read_text().strip()
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may(scope):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this route is for muxd alone\n"})
            return
        await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_BELOW):
            return True
        shown = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(shown, self._expected)
