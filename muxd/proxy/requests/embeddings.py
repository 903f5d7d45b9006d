"""Ollama's two routes for embeddings, told in OpenAI's words, and the answer in Ollama's again.

/api/embed takes a text or a list of them in "input", /api/embeddings one text in "prompt".  Where there is none, only
the model is wanted.  "dimensions" is passed on.  "truncate" and "options" mean nothing here: whether a text that is too
long is cut or refused is a matter of the worker's flags.
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
    """From where to where the texts lie in the body, and the number of dimensions as it is written."""

    keep_alive: bytes = b""
    start: int = 0
    end: int = 0
    dimensions: bytes = b""
    empty: bool = False
    form: ClassVar[BodyFormat] = BodyFormat.OLLAMA

    def unloads(self) -> bool:
        return says_no_time(self.keep_alive)

    def preloads(self) -> bool:
        return self.empty

    def told(self, body: bytes, model: str) -> bytes:
        """The body for the worker, which is asked for `model`."""
        parts = [b'{"model":', msgspec.json.encode(model), b',"input":', body[self.start : self.end]]
        if self.dimensions.strip(b"0"):  # 0 means as many as there are
            parts += [b',"dimensions":', self.dimensions]
        return b"".join([*parts, b"}"])


def in_embed(request: Request) -> AskedEmbeddings:
    """Raises Refusal."""
    return _read(request, "input", _TEXTS, "a text or a list of texts")


def in_embeddings(request: Request) -> AskedEmbeddings:
    """Raises Refusal."""
    return _read(request, "prompt", _ONE_TEXT, "a text")


def _read(request: Request, field: str, kind: re.Pattern[bytes], what: str) -> AskedEmbeddings:
    take_as_json(request)
    body = request.body
    found = {one.name: one for one in members(body) if one.name in (field, *_READ)}
    found = {name: one for name, one in found.items() if beginning(body, one) != b"null"}
    start, end = (found[field].start, found[field].end) if field in found else (0, 0)
    model, keep_alive, dimensions = (beginning(body, found[name]) if name in found else b"" for name in _READ)
    empty = _NO_TEXT.fullmatch(body, start, end) is not None
    if not empty and kind.fullmatch(body, start, end) is None:
        raise Refusal(400, "invalid_input", f'"{field}" must be {what}', param=field)
    if dimensions and _COUNT.fullmatch(dimensions) is None:
        raise Refusal(400, "invalid_dimensions", '"dimensions" must be a whole number', param="dimensions")
    return AskedEmbeddings(name_of(model), False, keep_alive, start, end, dimensions, empty)


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _WorkerAnswer(msgspec.Struct):
    """OpenAI's answer; the vectors stay as they are written."""

    data: list[_Vector]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_WorkerAnswer).decode


class Vectors:
    """What a worker answered; raises ValueError where it is no answer."""

    def __init__(self, body: bytes) -> None:
        try:
            told = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"its answer has no embeddings: {error}") from None
        self.tokens = told.usage.prompt_tokens if told.usage is not None else 0
        self._vectors = [one.embedding for one in sorted(told.data, key=lambda one: one.index)]

    def answer(self, asked: str, route: str, whole: float, wait: float) -> dict[str, Any]:
        """In Ollama's words; `whole` and `wait`: seconds that the request took, and its model."""
        if route == EMBEDDINGS:
            return {"embedding": self._vectors[0] if self._vectors else []}
        times = {"total_duration": int(whole * 1e9), "load_duration": int(wait * 1e9)}
        return {"model": asked, "embeddings": self._vectors, **times, "prompt_eval_count": self.tokens}


def nothing(asked: str, route: str) -> dict[str, Any]:
    """To who wants the model alone."""
    return {"embedding": []} if route == EMBEDDINGS else {"model": asked, "embeddings": []}
