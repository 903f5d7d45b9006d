"""How many tokens an answer took, from its bytes as they are relayed and without parsing the body.

A JSON key is found by its bytes: within a string its quotes would be escaped, so that text which
merely talks of "usage" is never taken for it.  Chunked framing is stepped over, and a body that
is compressed shows no keys: it counts nothing.

`see` costs 0.20 us for an event of 220 bytes, 3.4 us for a piece of 128 KiB; a whole chat answer of
700 bytes with its figures 1.5 us, an event of /generate, which tells its figures in each, 0.46 us
(timeit, all at the quietest).  A worker may write chunks that break a key in two within one piece; then those tokens
are missed.  SGLang never does: a chunk of its is a whole event.
"""

import re
from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol

import msgspec

Tokens = tuple[int, int, int]

_NOTHING: Tokens = (0, 0, 0)
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]  # a worker's nonsense shall not spoil a counter for ever

_EVENT_ENDS = (b"\n\n\r\n", b"\n\n", b"\r\n\r\n")  # chunked, not chunked, and the head
_EDGE = 128  # bytes of an unfinished event that are kept: longer than any key with its figure
_LONGEST = 4096  # of a usage object
_BEGINNING = 192  # of a meta_info: its id, why it ended and the prompt's figure
# In a piece larger than this only the end is looked at, where every engine has the figures: at 2.8 GB/s the rest of
# a 5 MB answer would cost 1.8 ms.
_REACH = 16 << 10
_OF_NULL = ord("n")
_FRAMING = re.compile(rb"\r\n[0-9a-fA-F]+(?:;[^\r\n]*)?\r\n")
_FIGURE = re.compile(rb"\s*(\d{1,12})")


class Usage(Protocol):
    """Reads one answer along."""

    key: ClassVar[bytes]  # a whole event without it tells nothing

    def see(self, data: bytes) -> None:
        """Some more of the answer, as relayed; the first piece has its head."""

    def result(self) -> Tokens:
        """The tokens of the prompt, how many of these were cached, those of the completion; 0 what was not told."""


def reader(route: str) -> Callable[[], Usage] | None:
    """What makes a Usage for an answer of this route of a worker; None: its answers tell of no tokens."""
    return _READERS.get(route)


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = 0


class _ReportedUsage(msgspec.Struct):
    """The usage object in all three dialects; none uses the keys of another."""

    prompt_tokens: _Count | None = 0  # OpenAI's
    completion_tokens: _Count | None = 0
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count | None = 0  # Responses and Anthropic's, whose does not contain what was cached
    output_tokens: _Count | None = 0
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count | None = 0
    cache_creation_input_tokens: _Count | None = 0

    def tokens(self) -> Tokens:
        details = self.prompt_tokens_details or self.input_tokens_details
        read = self.cache_read_input_tokens or 0
        given = self.prompt_tokens or (self.input_tokens or 0) + read + (self.cache_creation_input_tokens or 0)
        cached = read if details is None else details.cached_tokens or 0
        return given, cached, self.completion_tokens or self.output_tokens or 0


_decode = msgspec.json.Decoder(_ReportedUsage).decode


class UsageObject:
    """`"usage":{...}`, in the last event of a stream or near the end of a body.

    Of several the last counts.
    """

    key: ClassVar[bytes] = b'_tokens":'
    __slots__ = ("_rest", "_tokens")

    def __init__(self) -> None:
        self._rest = b""  # the end of a piece, where it is in the midst of an event
        self._tokens = _NOTHING

    def see(self, data: bytes) -> None:
        if self._rest:
            data = _join(self._rest, data)
            self._rest = b""
        # From the right: a key that is not there is missed in 0.10 us, from the left in 0.16.
        mark = data.rfind(b'_tokens":', -_REACH)
        if mark >= 0:
            self._look(data, mark)
        elif not data.endswith(_EVENT_ENDS):
            self._rest = data[-_EDGE:]

    def result(self) -> Tokens:
        return self._tokens

    def _look(self, data: bytes, mark: int) -> None:
        """Take the last usage that begins before `mark`, where a piece last speaks of tokens.

        What is not one is passed over: null, or a tool's own JSON (Responses repeats the tools after the usage).
        """
        at = mark
        while (at := data.rfind(b'"usage":', 0, at)) >= 0:
            start = at + len(b'"usage":')
            if data[start] == _OF_NULL:
                continue
            end = _end_of_object(data, start, at + _LONGEST)
            if not end and len(data) - at < _LONGEST:
                self._rest = data[at:]  # its end is still to come
                return
            if end and self._take(data[start:end]):
                break
        if not data.endswith(_EVENT_ENDS):
            self._rest = data[-_EDGE:]

    def _take(self, piece: bytes) -> bool:
        """False if it tells no tokens."""
        try:
            told = _decode(piece).tokens()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            whole = _FRAMING.sub(b"", piece)
            return whole != piece and self._take(whole)
        if told[0] or told[2]:
            # Anthropic's last event tells nothing of the prompt.
            self._tokens = told if told[0] else (self._tokens[0], self._tokens[1], told[2])
            return True
        return False


class MessagesUsage(UsageObject):
    """Anthropic's: its first event tells the prompt, its last the completion; one piece can have both."""

    __slots__ = ()

    def _look(self, data: bytes, mark: int) -> None:
        if self._tokens == _NOTHING:
            first = data.find(b'_tokens":')
            end = data.find(b"}", first) + 1
            super()._look(data[:end], first)
            self._rest = b""
        super()._look(data, mark)


class MetaInfo:
    """`"meta_info":{"id":..}` of SGLang's own /generate: cumulative in each event, and one for each part of a batch."""

    key: ClassVar[bytes] = b'"meta_info":'
    __slots__ = ("_begins", "_parts", "_rest", "_seen")

    def __init__(self) -> None:
        self._parts: dict[bytes, Tokens] = {}  # by id; the last of each
        self._seen = b""  # the last one, and what followed it
        self._begins = b"\0"  # of that; at first like none
        self._rest = b""  # of the answer, where a piece ended in the midst of an event

    def see(self, data: bytes) -> None:
        if self._rest:
            data = _join(self._rest, data)
            self._rest = b""
        at = data.find(b'"meta_info":')
        while at >= 0:
            following = data.find(b'"meta_info":', at + 1)
            seen = data[at:following] if following >= 0 else data[at:]
            if not seen.startswith(self._begins):
                self._count()  # perhaps the last of its id: else nothing is read before the answer's end
                self._begins = seen[:_BEGINNING]
            self._seen = seen
            at = following
        if not data.endswith(_EVENT_ENDS):
            self._rest = self._unfinished() if b'"meta_info":' in data else data[-_EDGE:]

    def result(self) -> Tokens:
        self._count()
        told = self._parts.values()
        return sum(one[0] for one in told), sum(one[1] for one in told), sum(one[2] for one in told)

    def _unfinished(self) -> bytes:
        """Enough to go on with: the id comes first, and there can be megabytes of logprobs."""
        seen = self._seen
        if len(seen) <= _LONGEST:
            return seen
        self._count()
        return seen[:_BEGINNING] + seen[-_EDGE:]

    def _count(self) -> None:
        if self._seen:
            seen = _FRAMING.sub(b"", self._seen) if b"\r\n" in self._seen else self._seen
            words = seen.split(b'"', 6)  # "meta_info":{"id":"..."
            name = words[5] if words[3:4] == [b"id"] and len(words) > 5 else b""
            known = self._parts.get(name, _NOTHING)
            self._parts[name] = (
                max(known[0], _figure(seen, b'"prompt_tokens":')),
                max(known[1], _figure(seen, b'"cached_tokens":')),
                max(known[2], _figure(seen, b'"completion_tokens":')),
            )


class EvalCounts:
    """Ollama's `"prompt_eval_count"` and `"eval_count"`, at the end of the last object."""

    key: ClassVar[bytes] = b'eval_count":'
    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = b""

    def see(self, data: bytes) -> None:
        self._end = data[-_LONGEST:] if len(data) >= _LONGEST else (self._end + data)[-_LONGEST:]

    def result(self) -> Tokens:
        end = _FRAMING.sub(b"", self._end)
        return _figure(end, b'"prompt_eval_count":'), 0, _figure(end, b'"eval_count":')


def _join(rest: bytes, data: bytes) -> bytes:
    """`rest` and what came next, without the framing between them; much of `data` is copied only if it matters."""
    edge = _FRAMING.sub(b"", rest + data[:_EDGE])
    if len(data) > _REACH and b'_tokens":' not in edge and b'"meta_info":' not in edge:
        return data
    return edge + data[_EDGE:]


def _end_of_object(data: bytes, at: int, stop: int) -> int:
    """Where the object at `at` ends, 0 if not before `stop`.  A usage object's strings have no braces."""
    end = data.find(b"}", at, stop) + 1
    closed = 1
    while end and data.count(b"{", at, end) > closed:
        end = data.find(b"}", end, stop) + 1
        closed += 1
    return end


def _figure(piece: bytes, key: bytes) -> int:
    """The last figure under this key, 0 where there is none."""
    at = piece.rfind(key)
    found = _FIGURE.match(piece, at + len(key)) if at >= 0 else None
    return int(found[1]) if found else 0


_READERS: dict[str, Callable[[], Usage]] = {
    "/v1/chat/completions": UsageObject,
    "/v1/completions": UsageObject,
    "/v1/embeddings": UsageObject,
    "/v1/classify": UsageObject,
    "/v1/score": UsageObject,
    "/v1/responses": UsageObject,
    "/v1/messages": MessagesUsage,
    "/generate": MetaInfo,
    "/api/chat": EvalCounts,
    "/api/generate": EvalCounts,
}
