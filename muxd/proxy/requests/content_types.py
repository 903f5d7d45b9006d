"""Checks of a request's content type, made before its model is switched to: the worker would refuse it only after.

SGLang takes application/json on every route with a body, except for that of a form.  The check also
keeps out web pages of other origins: without a preflight request a browser lets a page send only
text, a URL-encoded form, or a body of no type at all.
"""

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

JSON = b"application/json"

_NAME = b"content-type"
_FORM = b"application/x-www-form-urlencoded"  # the content type that `curl -d` sends with every body


def demand_json(request: Request) -> None:
    """Raise Refusal where the content type of a body is not JSON; write it as application/json where it is."""
    index, kind = _content_type(request)
    if kind != JSON and request.body:
        plain = kind.strip()
        if plain != JSON and not (plain.startswith(b"application/") and plain.endswith(b"+json")):
            raise _not_json(plain)
        _set_json_type(request, index)


def take_as_json(request: Request) -> None:
    """Take a body without a content type, or with that of `curl -d`, as JSON, as Ollama reads no content type.

    A request of a web page, which has an Origin, needs the content type of JSON here, too.  Raise Refusal otherwise.
    """
    index, kind = _content_type(request)
    if kind.strip() not in (b"", _FORM) or request.header(b"origin") is not None:
        demand_json(request)
    elif request.body:
        _set_json_type(request, index)


def _content_type(request: Request) -> tuple[int, bytes]:
    """Return the header's index, -1 for none, and the type in lower case without parameters, as the worker reads it.

    Raise Refusal where there are two such headers.
    """
    index_found, kind = -1, b""
    for index, (name, value) in enumerate(request.headers):
        if len(name) == 12 and name.lower() == _NAME:
            if index_found >= 0:
                message = "two content types in one request: send one, 'Content-Type: application/json'"
                raise Refusal(415, "invalid_content_type", message)
            index_found, kind = index, value.partition(b";")[0].lower()
    return index_found, kind


def _set_json_type(request: Request, index: int) -> None:
    """Set the content type to application/json, the only spelling that the worker accepts."""
    if index < 0:
        request.headers.append((_NAME, JSON))
    else:
        request.headers[index] = (request.headers[index][0], JSON)


def _not_json(kind: bytes) -> Refusal:
    said = f"said to be {ascii(kind[:100].decode('latin-1'))[1:-1]}" if kind else "of no content type"
    message = f"this route takes JSON, and the body is {said}: send the header 'Content-Type: application/json'"
    return Refusal(415, "invalid_content_type", message)
