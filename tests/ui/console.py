"""A console that runs, and what asks it as a browser does, without its window."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.end_to_end.muxd import Muxd, eventually

OWN = {"x-muxd-ui": "1"}


class Console:
    """A muxd with a console, and a browser without a window."""

    def __init__(self, muxd: Muxd, port: int) -> None:
        self.muxd = muxd
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> "Console":
        eventually(self.is_up, "the console is up")
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def is_up(self) -> bool:
        try:
            return self.http.get("/ui/").status_code == 200
        except httpx.HTTPError:
            return False

    def log_in(self) -> "Console":
        """By the link that `muxctl ui` prints."""
        link = self.muxd.muxctl("ui").stdout.strip()
        assert self.http.get(link, follow_redirects=False).status_code == 303
        return self

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        return self.http.post(f"/ui/api/{path}", json=body or {}, headers=OWN | headers)

    @contextmanager
    def live(self, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """The (kind, data) of each message of the stream."""

        def told() -> Iterator[tuple[str, Any]]:
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])

        with self.http.stream("GET", "/ui/api/live", headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            yield told()
