"""What the body of a request says: which model it names, and whether its answer is to be streamed."""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar, TypeVar

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .content_types import demand_json, take_as_json
from .json_spans import JsonSpan, members, no_model
from .multipart import read_form

T = TypeVar("T")

#: Names the model for the routes whose body has no field for it.
MODEL_HEADER = b"x-muxd-model"

# A body that is longer, or not as it should be, is not decoded: first it is looked where its fields lie, and
# of those that count only what is short is read.
_LARGE = 64 << 10  # bytes
_LONGEST_NAME = 64 << 10  # bytes, as written
_LONGEST_TRUTH = 64
_READ = ("model", "stream", "name", "keep_alive")
_TRUE = ("true", "1", "on", "yes", "t", "y")  # what SGLang reads as true, in whatever case


# Ollama's "keep_alive": a number of seconds, or a duration as Go writes it.
_NO_TIME = re.compile(
    rb'-?0(\.0+)?([eE][-+]?[0-9]+)?|"[-+]?(0+(\.0*)?|((0+(\.0*)?|\.0+)(ns|us|\xc2\xb5s|\xce\xbcs|ms|s|m|h))+)"'
)
_NOTHING = (msgspec.Raw(), msgspec.Raw(b"null"))
_EMPTY = re.compile(rb'|null|""|\[[ \t\r\n]*\]')


class BodyFormat(Enum):
    """How the body is written, and with it what a streamed answer looks like."""

    JSON = auto()  # server-sent events
    OLLAMA = auto()  # JSON in, one JSON object a line out: no comments, no named events
    MULTIPART = auto()  # server-sent events
    NOTHING = auto()  # no body is read


class RequestInfo(msgspec.Struct):
    """`model` is as the client wrote it; `stream` counts as a truth value.

    Decoded as it is from the body: msgspec checks the fields that are not listed only for being JSON.
    """

    model: str
    stream: bool | None = False
    form: ClassVar[BodyFormat] = BodyFormat.JSON
    in_body: ClassVar[bool] = True  # it is the body that names the model

    def unloads(self) -> bool:
        """Whether the model is to be let go, once this is answered."""
        return False

    def preloads(self) -> bool:
        """Whether it asks for nothing but that the model be awake, or let go."""
        return False


class _OllamaRequest(RequestInfo):
    stream: bool | None = True
    keep_alive: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    form: ClassVar[BodyFormat] = BodyFormat.OLLAMA

    def unloads(self) -> bool:
        return says_no_time(bytes(self.keep_alive))

    def preloads(self) -> bool:
        return all(map(_EMPTY.fullmatch, (bytes(self.prompt), bytes(self.messages))))


class _AskedChat(RequestInfo):
    messages: msgspec.Raw = msgspec.Raw()


class _NativeRequest(RequestInfo):
    model: str = ""


class _HeaderRequest(RequestInfo):
    in_body: ClassVar[bool] = False


class _MultipartRequest(RequestInfo):
    form: ClassVar[BodyFormat] = BodyFormat.MULTIPART


class _BodilessRequest(RequestInfo):
    form: ClassVar[BodyFormat] = BodyFormat.NOTHING


class _Shown(msgspec.Struct):
    model: str = ""
    name: str = ""


Read = Callable[[Request], RequestInfo]

_decode = msgspec.json.Decoder(RequestInfo).decode
_decode_chat = msgspec.json.Decoder(_AskedChat).decode
_decode_ollama = msgspec.json.Decoder(_OllamaRequest).decode
_decode_native = msgspec.json.Decoder(_NativeRequest).decode
_decode_shown = msgspec.json.Decoder(_Shown).decode


def _at_once(decode: Callable[[bytes], T], body: bytes) -> T | None:
    """What the body says, where it is neither too large to be decoded whole nor in any way unusual."""
    try:
        return decode(body) if len(body) <= _LARGE else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def in_json(request: Request) -> RequestInfo:
    """Raises Refusal.  A second "model" wins, as it does in the worker."""
    demand_json(request)
    body = request.body
    asked = _at_once(_decode, body)
    if asked is not None:
        return asked
    found = _fields(body)
    return RequestInfo(name_of(found.get("model")), _is_true(found.get("stream", b"false")))


def as_chat(request: Request) -> RequestInfo:
    """The same of a route that takes a dialogue, without which no worker answers.  Raises Refusal."""
    demand_json(request)
    body = request.body
    asked = _at_once(_decode_chat, body)
    if asked is None:
        return in_json(request)  # what is so long, or odd, says more than a model: the worker looks at it
    if asked.messages in _NOTHING:
        problem = '"messages" is missing: this route takes a list of them'
        raise Refusal(400, "invalid_messages", problem, param="messages")
    return asked


def in_ollamas_json(request: Request) -> RequestInfo:
    """Streamed unless it says otherwise.  Raises Refusal."""
    take_as_json(request)
    body = request.body
    asked = _at_once(_decode_ollama, body)
    if asked is not None:
        return asked
    found = _fields(body)
    model, stream = name_of(found.get("model")), _is_true(found.get("stream", b"true"))
    keep_alive = msgspec.Raw(found.get("keep_alive", b""))
    # What is so long, or odd, asks for more than a model: the worker looks at it.
    return _OllamaRequest(model, stream, keep_alive, prompt=msgspec.Raw(b"1"))


def beside_json(request: Request) -> RequestInfo:
    """Of SGLang's own routes, which know no model: the body's "model", else the header's, else empty.

    Raises Refusal.
    """
    demand_json(request)
    body = request.body
    asked = _at_once(_decode_native, body)
    if asked is None:
        found = _fields(body)
        asked = _NativeRequest(name_of(found.get("model", b'""')), _is_true(found.get("stream", b"false")))
    return asked if asked.model else _HeaderRequest(_of_header(request), asked.stream)


def in_form(request: Request) -> RequestInfo:
    """Raises Refusal.  Of several fields of one name the last counts, as it does in the worker."""
    form = read_form(request)
    model, stream = form.value(b"model", _LONGEST_NAME + 1), form.value(b"stream", _LONGEST_TRUTH)
    if model is None:
        raise Refusal(400, "invalid_model", 'the form has no field "model": GET /v1/models lists them', param="model")
    if len(model) > _LONGEST_NAME:
        raise _too_long()
    try:
        asked = _MultipartRequest(str(model, "utf-8"), str(stream or b"", "latin-1").lower() in _TRUE)
    except UnicodeDecodeError:
        raise Refusal(400, "invalid_model", 'the form\'s field "model" is not UTF-8', param="model") from None
    if not any(part.name == b"file" for part in form.parts):
        raise Refusal(400, "invalid_form", 'the form has no "file": this route takes a recording', param="file")
    return asked


def of_path(model: str) -> RequestInfo:
    """A GET whose path names the model."""
    return _BodilessRequest(model)


def to_show(request: Request) -> str:
    """The model that Ollama's clients ask about: "model", or "name" as it was called.  Raises Refusal."""
    body = request.body
    shown = _at_once(_decode_shown, body)
    if shown is not None:
        return shown.model or shown.name
    found = _fields(body)
    return name_of(found.get("model") or found.get("name"))


def _fields(body: bytes) -> dict[str, bytes]:
    """How the fields that count are written, of long ones the beginning; without those that are null.

    Raises Refusal where the body is not a JSON object.
    """
    found = {one.name: beginning(body, one) for one in members(body) if one.name in _READ}
    return {name: text for name, text in found.items() if text != b"null"}


def beginning(body: bytes, member: JsonSpan) -> bytes:
    """As much of what a field holds as a name may be long, and a byte more."""
    return body[member.start : min(member.end, member.start + _LONGEST_NAME + 1)]


def says_no_time(keep_alive: bytes) -> bool:
    """Whether Ollama's "keep_alive", as it is written, says that the model is to be let go."""
    return _NO_TIME.fullmatch(keep_alive) is not None


def name_of(text: bytes | None) -> str:
    """The model's name, of how it is written; raises Refusal."""
    if text is None or text[:1] != b'"':
        raise no_model()
    if len(text) > _LONGEST_NAME:
        raise _too_long()
    try:
        return msgspec.json.decode(text, type=str)
    except UnicodeDecodeError as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}") from None


def _is_true(text: bytes) -> bool:
    """As SGLang reads what is no truth value; what it refuses may be anything here."""
    if len(text) > _LONGEST_TRUTH or text[:1] in b"[{":
        return False
    try:
        return str(msgspec.json.decode(text)).lower() in _TRUE
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # a number without an end, a text of no characters


def _of_header(request: Request) -> str:
    return (request.header(MODEL_HEADER) or b"").decode("utf-8", "replace")


def unnamed() -> Refusal:
    """To a request that names no model where there are several, on a route whose body need not."""
    problem = 'name the model: this route takes a "model" in its body, or a header "x-muxd-model: NAME"'
    return Refusal(400, "invalid_model", f"{problem}; GET /v1/models lists them", param="model")


def _too_long() -> Refusal:
    return Refusal(400, "invalid_model", f'"model" is longer than {_LONGEST_NAME} bytes', param="model")
