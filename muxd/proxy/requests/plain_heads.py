"""Heads of requests in which no header concerns the proxy: these need not be looked through again.

Most requests have one: JSON to a route of the API, from no web page, without a class or coding of their own.  An id of
the request's own is read each time.
Which those are is found out once for every head that is known (see `muxd.http.known_heads`), after its first request
was checked; `Request.is_plain` says it of a request.  A key is not among what is remembered: it is checked each time.
"""

from collections.abc import Iterable

from muxd.http.request import Request

from .content_types import JSON
from .request_class import CLASS_HEADER

#: The header by which a client says that its stream may have no comments.
COMMENTS_HEADER = b"x-muxd-comments"

_CHECKED = (CLASS_HEADER, COMMENTS_HEADER, b"origin", b"content-encoding")
_TYPE = b"content-type"
_READ = frozenset((*_CHECKED, _TYPE, b"host", b"connection", b"accept-encoding"))  # that the proxy goes by


def own_names(ids: Iterable[bytes]) -> list[bytes]:
    """Return those of the names of headers with a request id that have no other meaning."""
    return [name for name in ids if name not in _READ]


class HeadJudge:
    """Says of known heads whether they are plain, by the rules of the moment."""

    __slots__ = ("_checked", "_ids", "rules")

    def __init__(self, ids: Iterable[bytes]) -> None:
        """Take the names of headers that have the client's request id, in lower case."""
        self._ids = frozenset(ids)
        self._checked = frozenset(_CHECKED) | (self._ids & _READ)
        self.rules = object()  # a head is known to be plain where its `is_plain_to` is this

    def forget(self) -> None:
        """Check every head anew: the rules for hosts and origins, keys or the configuration have changed."""
        self.rules = object()

    def judge(self, request: Request) -> None:
        """Note of a known head whether it is plain; its request was not refused for any of its headers."""
        known = request.known
        if known is not None and known.judged_by is not self.rules:
            known.judged_by = self.rules
            known.read = None
            known.ways.clear()
            # Not those of the request: what was done with it may have taken some out, as Content-Encoding.
            names = [name.lower() for name, _ in known.headers]
            types = [value for name, value in known.headers if name.lower() == _TYPE]
            has_one_id = known.id_index >= 0 or self._ids.isdisjoint(names)
            is_usual = request.method == "POST" and request.target[:1] == b"/" and has_one_id
            if is_usual and types == [JSON] and self._checked.isdisjoint(names):
                known.is_plain_to = self.rules
