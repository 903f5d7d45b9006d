"""Readers of request bodies: which model a body names, and whether the response is to be streamed."""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar, TypeVar

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .content_types import demand_json, take_as_json
from .json_spans import JsonSpan, members, no_model
from .keep_alive import seconds_of
from .multipart import read_form

T = TypeVar("T")

#: The header that names the model on routes whose body has no field for it.
MODEL_HEADER = b"x-muxd-model"

# A body over this size, or one with fields of unusual types, is not decoded: `members` finds its fields, and only
# those in _READ are decoded, where they are short.
_MOST_DECODED = 64 << 10  # bytes
_LONGEST_NAME = 64 << 10  # bytes, as written in the body
_LONGEST_BOOLEAN = 64
_READ = ("model", "stream", "name", "keep_alive", "ttl", "service_tier", "messages")
_TRUE = ("true", "1", "on", "yes", "t", "y")  # texts that SGLang reads as true, in any case


# Ollama's "keep_alive": a number of seconds, or a duration as Go writes it.
_NO_TIME = re.compile(
    rb'-?0(\.0+)?([eE][-+]?[0-9]+)?|"[-+]?(0+(\.0*)?|((0+(\.0*)?|\.0+)(ns|us|\xc2\xb5s|\xce\xbcs|ms|s|m|h))+)"'
)
_FILLED_LIST = re.compile(rb"\[[ \t\r\n]*+[^\]]")  # the beginning of a list that has something in it
_EMPTY_LIST = re.compile(rb"\[[ \t\r\n]*+\]")
_EMPTY = re.compile(rb'|null|""|\[[ \t\r\n]*\]')


class BodyFormat(Enum):
    """The format of the body, which also decides the format of a streamed response."""

    JSON = auto()  # streams server-sent events
    OLLAMA = auto()  # JSON; streams one JSON object a line: no comments, no named events
    MULTIPART = auto()  # a form; streams server-sent events
    NOTHING = auto()  # no body is read


class RequestInfo(msgspec.Struct, gc=False):
    """Facts that a body tells.  `model` is as the client wrote it; `stream` counts as a truth value.

    msgspec decodes a body into this: of fields that are not listed it only checks that they are JSON.
    """

    model: str
    stream: bool | None = False
    keep_alive: msgspec.Raw = msgspec.Raw()
    ttl: msgspec.Raw = msgspec.Raw()
    service_tier: msgspec.Raw = msgspec.Raw()
    form: ClassVar[BodyFormat] = BodyFormat.JSON
    in_body: ClassVar[bool] = True  # the body names the model
    is_empty: ClassVar[bool] = False  # a dialogue without a message
    may_preload: ClassVar[bool] = False  # it may be one that only loads or unloads the model

    def keeps(self) -> float | None:
        """Return the seconds after its last use in which the model is to stay awake; None: nothing is said of that.

        Raise Refusal for what is no duration.
        """
        found = (seconds_of("keep_alive", bytes(self.keep_alive)), seconds_of("ttl", bytes(self.ttl)))
        return next((seconds for seconds in found if seconds is not None), None)

    def tier(self) -> bytes:
        """Return OpenAI's "service_tier", as it is written; empty where there is none."""
        return bytes(self.service_tier)

    def unloads(self) -> bool:
        """Return whether the model is to be unloaded after this request."""
        return False

    def preloads(self) -> bool:
        """Return whether the request only asks for the model to be loaded, or unloaded."""
        return False


class _OllamaRequest(RequestInfo):
    stream: bool | None = True
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    form: ClassVar[BodyFormat] = BodyFormat.OLLAMA
    may_preload: ClassVar[bool] = True

    def unloads(self) -> bool:
        return says_no_time(bytes(self.keep_alive))

    def preloads(self) -> bool:
        return all(map(_EMPTY.fullmatch, (bytes(self.prompt), bytes(self.messages))))


class _Messages(msgspec.Struct, array_like=True, gc=False):
    """A list that has at least one item; further ones are only checked to be JSON."""

    first: msgspec.Raw


class _AskedChat(RequestInfo, kw_only=True):
    """A dialogue that has messages."""

    messages: _Messages


class EmptyDialogue(RequestInfo):
    """A dialogue whose "messages" are an empty list."""

    is_empty: ClassVar[bool] = True


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


def _decode_at_once(decode: Callable[[bytes], T], body: bytes) -> T | None:
    """Decode the body at once; return None where it is too large for that, or not as the decoder wants it."""
    try:
        return decode(body) if len(body) <= _MOST_DECODED else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def in_json(request: Request) -> RequestInfo:
    """Read a JSON body; raise Refusal.  Of two fields "model" the last counts, as in the worker."""
    demand_json(request)
    body = request.body
    asked = _decode_at_once(_decode, body)
    if asked is not None:
        return asked
    fields = _fields(body)
    return RequestInfo(name_of(fields.get("model")), _is_true(fields.get("stream", b"false")), *_kept(fields))


def as_chat(request: Request) -> RequestInfo:
    """Read the JSON body of a route that takes a dialogue; raise Refusal, also where "messages" is no list."""
    if not request.is_plain:
        demand_json(request)
    body = request.body
    try:  # as `_decode_at_once`
        if len(body) <= _MOST_DECODED:
            return _decode_chat(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    fields = _fields(body)
    asked = name_of(fields.get("model")), _is_true(fields.get("stream", b"false")), *_kept(fields)
    messages = fields.get("messages", b"")
    if _FILLED_LIST.match(messages) is not None:
        return RequestInfo(*asked)
    if _EMPTY_LIST.match(messages) is not None:
        return EmptyDialogue(*asked)
    raise no_messages("is no list" if messages else "is missing")


def no_messages(problem: str) -> Refusal:
    """Return the refusal of a dialogue with whose "messages" something is wrong."""
    return Refusal(400, "invalid_messages", f'"messages" {problem}: this route takes a list of them', param="messages")


def in_ollamas_json(request: Request) -> RequestInfo:
    """Read the body of one of Ollama's routes, which stream by default; raise Refusal."""
    take_as_json(request)
    body = request.body
    asked = _decode_at_once(_decode_ollama, body)
    if asked is not None:
        return asked
    fields = _fields(body)
    model, stream = name_of(fields.get("model")), _is_true(fields.get("stream", b"true"))
    # A body so long or unusual asks for more than a model: the worker checks its prompt.
    return _OllamaRequest(model, stream, *_kept(fields), prompt=msgspec.Raw(b"1"))


def beside_json(request: Request) -> RequestInfo:
    """Read the JSON body of one of SGLang's own routes, which have no field for the model; raise Refusal.

    `model` is the body's "model", else that of the header `x-muxd-model`, else empty.
    """
    demand_json(request)
    body = request.body
    asked = _decode_at_once(_decode_native, body)
    if asked is None:
        fields = _fields(body)
        asked = _NativeRequest(name_of(fields.get("model", b'""')), _is_true(fields.get("stream", b"false")))
    return asked if asked.model else _HeaderRequest(_model_of_header(request), asked.stream)


def in_form(request: Request) -> RequestInfo:
    """Read a form; raise Refusal.  Of several fields of one name the last counts, as in the worker."""
    form = read_form(request)
    model, stream = form.value(b"model", _LONGEST_NAME + 1), form.value(b"stream", _LONGEST_BOOLEAN)
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
    """Return the facts of a GET whose path names the model."""
    return _BodilessRequest(model)


def to_show(request: Request) -> str:
    """Return the model that an Ollama client asks about, in "model" or, as once, in "name"; raise Refusal."""
    body = request.body
    shown = _decode_at_once(_decode_shown, body)
    if shown is not None:
        return shown.model or shown.name
    fields = _fields(body)
    model, name = fields.get("model"), fields.get("name")
    found = name_of(model) if model is not None or name is None else ""
    return found or (name_of(name) if name is not None else "")


def _fields(body: bytes) -> dict[str, bytes]:
    """Return the fields in _READ that are not null, as they are written; of long ones only the beginning.

    Raise Refusal where the body is not a JSON object.
    """
    fields = {member.name: beginning(body, member) for member in members(body) if member.name in _READ}
    return {name: text for name, text in fields.items() if text != b"null"}


def _kept(fields: dict[str, bytes]) -> tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]:
    keep_alive, ttl, tier = (msgspec.Raw(fields.get(name, b"")) for name in ("keep_alive", "ttl", "service_tier"))
    return keep_alive, ttl, tier


def beginning(body: bytes, member: JsonSpan) -> bytes:
    """Return the first bytes of a member's value: as many as a name may have, and one more."""
    return body[member.start : min(member.end, member.start + _LONGEST_NAME + 1)]


def says_no_time(keep_alive: bytes) -> bool:
    """Return whether Ollama's "keep_alive", as it is written, is zero, so that the model is to be unloaded."""
    return _NO_TIME.fullmatch(keep_alive) is not None


def name_of(text: bytes | None) -> str:
    """Decode the model's name from its JSON text; raise Refusal where it is no string, or too long."""
    if text is None or text[:1] != b'"':
        raise no_model()
    if len(text) > _LONGEST_NAME:
        raise _too_long()
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # which of both depends on the version of msgspec
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}") from None


def _is_true(text: bytes) -> bool:
    """Return the truth value that SGLang reads from the JSON text; where SGLang would refuse it, any value will do."""
    if len(text) > _LONGEST_BOOLEAN or text[:1] in b"[{":
        return False
    try:
        return str(msgspec.json.decode(text)).lower() in _TRUE
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # for example a number of which only the beginning is here, or a text that is not UTF-8


def _model_of_header(request: Request) -> str:
    return (request.header(MODEL_HEADER) or b"").decode("utf-8", "replace")


def unnamed() -> Refusal:
    """Return the refusal of a request without a model, where there are several, on a route without a field for it."""
    problem = 'name the model: this route takes a "model" in its body, or a header "x-muxd-model: NAME"'
    return Refusal(400, "invalid_model", f"{problem}; GET /v1/models lists them", param="model")


def _too_long() -> Refusal:
    return Refusal(400, "invalid_model", f'"model" is longer than {_LONGEST_NAME} bytes', param="model")
