"""What the body of a request says: which model it names, and whether its answer is to be streamed."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, ClassVar

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .multipart import read_form

#: Names the model for the routes whose body has no field for it.
MODEL_HEADER = b"x-muxd-model"

_TRUE = ("true", "1", "on", "yes", "t", "y")  # what SGLang reads as true, in whatever case


class Form(Enum):
    """How the body is written, and with it what a streamed answer looks like."""

    JSON = auto()  # server-sent events
    OLLAMA = auto()  # JSON in, one JSON object a line out: no comments, no named events
    MULTIPART = auto()  # server-sent events
    NOTHING = auto()  # no body is read


class Asked(msgspec.Struct):
    """`model` is as the client wrote it; `stream` counts as a truth value.

    Decoded as it is from the body: msgspec checks the fields that are not listed only for being JSON.
    """

    model: str
    stream: bool | None = False
    form: ClassVar[Form] = Form.JSON
    in_body: ClassVar[bool] = True  # it is the body that names the model


class _AskedOllama(Asked):
    stream: bool | None = True
    form: ClassVar[Form] = Form.OLLAMA


class _AskedNative(Asked):
    model: str = ""


class _AskedByHeader(Asked):
    in_body: ClassVar[bool] = False


class _AskedMultipart(Asked):
    form: ClassVar[Form] = Form.MULTIPART


class _AskedNothing(Asked):
    form: ClassVar[Form] = Form.NOTHING


class _Anything(msgspec.Struct):
    """A body of which one field is not as it should be."""

    model: Any = None
    stream: Any = None


class _Shown(msgspec.Struct):
    model: str = ""
    name: str = ""


Read = Callable[[Request], Asked]

_decode = msgspec.json.Decoder(Asked).decode
_decode_ollama = msgspec.json.Decoder(_AskedOllama).decode
_decode_native = msgspec.json.Decoder(_AskedNative).decode


def in_json(request: Request) -> Asked:
    """Raises Refusal.  A second "model" wins, as it does in the worker."""
    try:
        return _decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        model, stream = _read_again(request.body, error)
        return Asked(_string(model), stream is not None and _is_true(stream))


def in_ollamas_json(request: Request) -> Asked:
    """Streamed unless it says otherwise.  Raises Refusal."""
    try:
        return _decode_ollama(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        model, stream = _read_again(request.body, error)
        return _AskedOllama(_string(model), stream is None or _is_true(stream))


def beside_json(request: Request) -> Asked:
    """Of SGLang's own routes, which know no model: the body's "model", else the header's.  Raises Refusal."""
    try:
        asked = _decode_native(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        model, stream = _read_again(request.body, error)
        asked = _AskedNative("" if model is None else _string(model), stream is not None and _is_true(stream))
    return asked if asked.model else _AskedByHeader(_of_header(request), asked.stream)


def in_form(request: Request) -> Asked:
    """Raises Refusal.  Of several fields of one name the last counts, as it does in the worker."""
    form = read_form(request)
    model, stream = form.value(b"model"), form.value(b"stream")
    if model is None:
        raise Refusal(400, "invalid_model", 'the form has no field "model": GET /v1/models lists them', param="model")
    try:
        return _AskedMultipart(str(model, "utf-8"), stream is not None and _is_true(str(stream, "latin-1")))
    except UnicodeDecodeError:
        raise Refusal(400, "invalid_model", 'the form\'s field "model" is not UTF-8', param="model") from None


def of_path(model: str) -> Asked:
    """A GET whose path names the model."""
    return _AskedNothing(model)


def to_show(request: Request) -> str:
    """The model that Ollama's clients ask about: "model", or "name" as it was called.  Raises Refusal."""
    try:
        found = msgspec.json.decode(request.body, type=_Shown)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _string(_read_again(request.body, error)[0])
    return found.model or found.name


def _read_again(body: bytes, error: Exception) -> tuple[Any, Any]:
    """The two fields of a body that is good JSON after all; raises Refusal."""
    if isinstance(error, RecursionError):
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None
    try:
        found = msgspec.json.decode(body, type=_Anything)
    except msgspec.ValidationError:
        raise _no_model() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {wrong}") from None
    except RecursionError:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None
    return found.model, found.stream


def _string(model: Any) -> str:
    if not isinstance(model, str):
        raise _no_model()
    return model


def _is_true(stream: Any) -> bool:
    """As SGLang reads what is no truth value; what it refuses may be anything here."""
    return str(stream).lower() in _TRUE


def _of_header(request: Request) -> str:
    named = request.header(MODEL_HEADER)
    if not named:
        problem = 'name the model: this route takes a "model" in its body, or a header "x-muxd-model: NAME"'
        raise Refusal(400, "invalid_model", f"{problem}; GET /v1/models lists them", param="model")
    return named.decode("utf-8", "replace")


def _no_model() -> Refusal:
    problem = 'the body must be a JSON object with a string "model": GET /v1/models lists them'
    return Refusal(400, "invalid_model", problem, param="model")
