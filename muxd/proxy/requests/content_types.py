"""What a body is said to be: refused here where the worker would refuse it, which is after its model was switched to.

SGLang takes application/json on every route with a body but that of a form.  To demand it also
keeps pages of other origins out that a browser did not ask whether it may: without a question first
a page can send text, a URL-encoded form, or a body of no type at all.
"""

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

JSON = b"application/json"

_NAME = b"content-type"
_FORM = b"application/x-www-form-urlencoded"  # what curl -d says of everything


def demand_json(request: Request) -> None:
    """Raise the Refusal of a body that is not said to be JSON."""
    place, kind = _kind(request)
    if kind != JSON and request.body:
        plain = kind.strip()
        if plain != JSON and not (plain.startswith(b"application/") and plain.endswith(b"+json")):
            raise _refused(plain)
        _is_json(request, place)


def take_as_json(request: Request) -> None:
    """As Ollama, which reads no content type: a body without one is JSON, and so is what curl calls a form.

    What a page sends has to be said to be JSON here, too.  Raises Refusal.
    """
    place, kind = _kind(request)
    if kind.strip() not in (b"", _FORM) or request.header(b"origin") is not None:
        demand_json(request)
    elif request.body:
        _is_json(request, place)


def _kind(request: Request) -> tuple[int, bytes]:
    """Where it is said, -1 for nowhere; and the type in lower case without parameters, as the worker reads it."""
    found, kind = -1, b""
    for place, (name, value) in enumerate(request.headers):
        if len(name) == 12 and name.lower() == _NAME:
            if found >= 0:
                message = "two content types in one request: send one, 'Content-Type: application/json'"
                raise Refusal(415, "invalid_content_type", message)
            found, kind = place, value.partition(b";")[0].lower()
    return found, kind


def _is_json(request: Request, place: int) -> None:
    """Say so to the worker, in the only word that it knows for it."""
    if place < 0:
        request.headers.append((_NAME, JSON))
    else:
        request.headers[place] = (request.headers[place][0], JSON)


def _refused(kind: bytes) -> Refusal:
    said = f"said to be {ascii(kind[:100].decode('latin-1'))[1:-1]}" if kind else "of no content type"
    message = f"this route takes JSON, and the body is {said}: send the header 'Content-Type: application/json'"
    return Refusal(415, "invalid_content_type", message)
