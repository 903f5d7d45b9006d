"""Heads of requests in which no header concerns the proxy: these need not be looked through again.

Most requests have one: JSON to a route of the API, from no web page, without an id, class or coding of their own.
Which those are is found out once for every head that is known (see `muxd.http.known_heads`), after its first request
was checked; `Request.is_plain` says it of a request.  A key is not among what is remembered: it is checked each time.
"""

from collections.abc import Iterable

from muxd.http.request import Request

from .classes import CLASS_HEADER
from .content_types import JSON

#: The header by which a client says that its stream may have no comments.
COMMENTS_HEADER = b"x-muxd-comments"

_CHECKED = (CLASS_HEADER, COMMENTS_HEADER, b"origin", b"content-encoding")
_TYPE = b"content-type"


class HeadJudge:
    """Says of known heads whether they are plain, by the rules of the moment."""

    __slots__ = ("_checked", "_rules")

    def __init__(self, ids: Iterable[bytes]) -> None:
        """Take the names of headers that have the client's request id, in lower case."""
        self._checked = frozenset((*_CHECKED, *ids))
        self._rules = object()

    def forget(self) -> None:
        """Check every head anew: the rules for hosts and origins have changed."""
        self._rules = object()

    def find_plain(self, request: Request) -> bool:
        """Say whether the request's head is known to be plain, and note it in the request."""
        known = request.known
        if known is None or known.is_plain_to is not self._rules:
            return False
        request.is_plain = True
        return True

    def judge(self, request: Request) -> None:
        """Note of a known head whether it is plain; its request was not refused for any of its headers."""
        known = request.known
        if known is not None and known.judged_by is not self._rules:
            known.judged_by = self._rules
            names = [name.lower() for name, _ in request.headers]
            types = [value for name, value in request.headers if name.lower() == _TYPE]
            is_usual = request.method == "POST" and request.target[:1] == b"/"
            if is_usual and types == [JSON] and self._checked.isdisjoint(names):
                known.is_plain_to = self._rules
