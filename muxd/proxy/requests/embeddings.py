"""Conversion of Ollama's two routes for embeddings into OpenAI's, and of the worker's response back into Ollama's.

/api/embed takes a text or a list of texts in "input", /api/embeddings one text in "prompt".  A request without a text
only asks for the model to be loaded.  "dimensions" is passed on.  "truncate" and "options" are ignored: whether a text
that is too long is cut or refused depends on the worker's flags.
"""

import re
from typing import Any, ClassVar

import msgspec

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .content_types import take_as_json
from .json_spans import members
from .request_info import BodyFormat, RequestInfo, beginning, name_of, says_no_time

EMBED, EMBEDDINGS = "/api/embed", "/api/embeddings"

_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_SPACE = rb"[ \t\r\n]*+"
_TEXTS = re.compile(rb"%b|\[%b(?:%b%b,?%b)*+\]" % (_TEXT, _SPACE, _TEXT, _SPACE, _SPACE))
_ONE_TEXT = re.compile(_TEXT)
_NO_TEXT = re.compile(rb'|""|\[%b\]' % _SPACE)
_READ = ("model", "keep_alive", "dimensions")
_COUNT = re.compile(rb"[0-9]{1,9}")


class AskedEmbeddings(RequestInfo):
    """Where the texts lie in the body, from `start` to before `end`, and the number of dimensions as it is written."""

    start: int = 0
    end: int = 0
    dimensions: bytes = b""
    empty: bool = False
    form: ClassVar[BodyFormat] = BodyFormat.OLLAMA
    may_preload: ClassVar[bool] = True

    def unloads(self) -> bool:
        return says_no_time(bytes(self.keep_alive))

    def preloads(self) -> bool:
        return self.empty

    def told(self, body: bytes, model: str) -> bytes:
        """Return the body for the worker, with `model` as the model's name; `body` is the client's."""
        parts = [b'{"model":', msgspec.json.encode(model), b',"input":', body[self.start : self.end]]
        if self.dimensions.strip(b"0"):  # to Ollama 0 means all dimensions
            parts += [b',"dimensions":', self.dimensions]
        return b"".join([*parts, b"}"])


def in_embed(request: Request) -> AskedEmbeddings:
    """Read the body of POST /api/embed; raise Refusal."""
    return _read(request, "input", _TEXTS, "a text or a list of texts")


def in_embeddings(request: Request) -> AskedEmbeddings:
    """Read the body of POST /api/embeddings; raise Refusal."""
    return _read(request, "prompt", _ONE_TEXT, "a text")


def _read(request: Request, field: str, kind: re.Pattern[bytes], what: str) -> AskedEmbeddings:
    take_as_json(request)
    body = request.body
    spans = {span.name: span for span in members(body) if span.name in (field, *_READ)}
    spans = {name: span for name, span in spans.items() if beginning(body, span) != b"null"}
    start, end = (spans[field].start, spans[field].end) if field in spans else (0, 0)
    model, keep_alive, dimensions = (beginning(body, spans[name]) if name in spans else b"" for name in _READ)
    empty = _NO_TEXT.fullmatch(body, start, end) is not None
    if not empty and kind.fullmatch(body, start, end) is None:
        raise Refusal(400, "invalid_input", f'"{field}" must be {what}', param=field)
    if dimensions and _COUNT.fullmatch(dimensions) is None:
        raise Refusal(400, "invalid_dimensions", '"dimensions" must be a whole number', param="dimensions")
    kept = msgspec.Raw(keep_alive)
    return AskedEmbeddings(name_of(model), False, kept, start=start, end=end, dimensions=dimensions, empty=empty)


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _WorkerAnswer(msgspec.Struct):
    """A worker's response, in OpenAI's format; the vectors are not decoded."""

    data: list[_Vector]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_WorkerAnswer).decode


class Vectors:
    """The embeddings in a worker's response."""

    def __init__(self, body: bytes) -> None:
        """Decode the body of the worker's response; raise ValueError where it has no embeddings."""
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"its answer has no embeddings: {error}") from None
        self.tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
        self._vectors = [vector.embedding for vector in sorted(answer.data, key=lambda vector: vector.index)]

    def answer(self, asked: str, route: str, total: float, wait: float) -> dict[str, Any]:
        """Return the response in Ollama's format; the request took `total` seconds, of which `wait` for its model."""
        if route == EMBEDDINGS:
            return {"embedding": self._vectors[0] if self._vectors else []}
        times = {"total_duration": int(total * 1e9), "load_duration": int(wait * 1e9)}
        return {"model": asked, "embeddings": self._vectors, **times, "prompt_eval_count": self.tokens}


def nothing(asked: str, route: str) -> dict[str, Any]:
    """Return the response to a request without a text, which only asks for the model to be loaded or unloaded."""
    return {"embedding": []} if route == EMBEDDINGS else {"model": asked, "embeddings": []}
