"""What a proxy does, kept for muxd until it is told: tokens, uses of keys, requests that ended, and those under way.

Nothing here is done while bytes pass: an ended request is taken in with the others that are written to the log then,
and those under way are looked at about once a second, or when somebody asks.

Tokens are counted as they come, by the events of streams, and set right by the response's usage at its end.  A stream
without usage keeps the count of its events, less those that have no text.
"""

from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic, time
from typing import Protocol

from muxd.protocol import (
    ActivityReport,
    CancelWish,
    KeyUsage,
    ModelActivity,
    Question,
    RequestsCancelled,
    RequestsTold,
    ToldRequest,
)
from muxd.proxy.answers import Refusal

from .request_record import RequestRecord
from .usage import Tokens

_MOST_ENDED = 200  # requests that are told in one report; of more the newest
_MOST_UNDER_WAY = 1000  # requests that are told in one answer
_MOST_FIRST_TOKENS = 64  # times to a first token, of one model in one report
_LONGEST_AGENT = 200  # characters of what a client calls itself
_CANCELLED = 403  # clients of OpenAI's kind repeat a request after 408, 409, 429 and 5xx

#: Events of a stream without usage that have no token, by route: SGLang's chats begin with the role, end with the
#: reason, and have "[DONE]", with which every stream ends.
_WITHOUT_TOKEN = {"/v1/chat/completions": 3}


class LiveRequest(Protocol):
    """A request that waits, or is with a worker."""

    @property
    def record(self) -> RequestRecord: ...

    @property
    def is_running(self) -> bool:
        """Say whether a worker has it."""
        ...

    @property
    def agent(self) -> str:
        """Return what the client calls itself, or ""."""
        ...

    def cut(self, refusal: Refusal) -> None: ...


class _KeyTally:
    """What was not told yet of one key and model."""

    __slots__ = ("cached", "completion", "event_tokens", "prompt", "refused", "requests")

    def __init__(self) -> None:
        self.requests = self.refused = self.prompt = self.cached = self.completion = self.event_tokens = 0


class Activity:
    """The activity that muxd was not told of yet.

    `under_way` returns the requests that wait or run now; `settle` calls `keep` and `end` with those that have ended
    since it did.
    """

    def __init__(self) -> None:
        self.under_way: Callable[[], Iterable[LiveRequest]] = tuple
        self.settle: Callable[[], object] = tuple
        self._tokens: dict[str, int] = {}  # by model
        self._first_tokens: dict[str, list[float]] = {}  # by model
        self._keys: dict[tuple[str, str], _KeyTally] = {}  # by key and model
        self._ended: deque[RequestRecord] = deque(maxlen=_MOST_ENDED)
        self._ended_count = 0
        self._taken = monotonic()

    def keep(self, records: Iterable[RequestRecord]) -> None:
        """Take requests in that have ended, in this order, but for those that named no model; `end` counts them."""
        named = [record for record in records if record.model]
        self._ended.extend(named)
        self._ended_count += len(named)

    def end(self, model: str, key: str, records: list[RequestRecord], tokens: Tokens, *, refused: bool) -> None:
        """Count requests that have ended, of one model and key; `tokens` is the sum of theirs."""
        tally = self._keys.get((key, model)) or self._keys.setdefault((key, model), _KeyTally())
        tally.requests += len(records)
        if refused:
            tally.refused += len(records)
        prompt, cached, given = tokens
        tally.prompt += prompt
        tally.cached += cached
        tally.completion += given
        for record in [record for record in records if record.events or record.first_byte is not None]:
            completion = record.tokens[2]
            given -= completion
            if not completion and record.events:
                completion = event_tokens(record)
                tally.event_tokens += completion
            self._count(record, completion)
        if given:
            self._tokens[model] = self._tokens.get(model, 0) + given

    def take(self) -> ActivityReport | None:
        """Return what was not told yet, as told from now on; None where that is nothing."""
        self.settle()
        for request in self.under_way():
            self._count(request.record, request.record.events)
        since, self._taken = self._taken, monotonic()
        if not (self._tokens or self._first_tokens or self._keys):
            return None
        tokens, self._tokens = self._tokens, {}
        first, self._first_tokens = self._first_tokens, {}
        keys, self._keys = self._keys, {}
        ended, self._ended = self._ended, deque(maxlen=_MOST_ENDED)
        left_out, self._ended_count = self._ended_count - len(ended), 0
        return ActivityReport(
            tuple(
                ModelActivity(m, tokens.get(m, 0), tuple(first.get(m, ()))) for m in dict.fromkeys([*tokens, *first])
            ),
            tuple(
                KeyUsage(key, model, t.requests, t.refused, t.prompt, t.cached, t.completion, t.event_tokens)
                for (key, model), t in keys.items()
            ),
            tuple(map(_told_ended, ended)),
            left_out,
            max(0.001, round(self._taken - since, 3)),
        )

    def _count(self, record: RequestRecord, tokens: int) -> None:
        """Count what a request has given since it was last looked at."""
        if tokens != record.told:
            self._tokens[record.model] = self._tokens.get(record.model, 0) + tokens - record.told
            record.told = tokens
        if record.first_byte is not None and not record.first_told:
            record.first_told = True
            times = self._first_tokens.setdefault(record.model, [])
            if len(times) < _MOST_FIRST_TOKENS:
                times.append(round(record.first_byte, 4))

    def answer(self, question: Question) -> RequestsTold | RequestsCancelled:
        """Return the requests that are under way, or end those that are to be ended."""
        if isinstance(question, CancelWish):
            return RequestsCancelled(question.number, self._cancel(question.id))
        requests = list(self.under_way())
        now, wall = monotonic(), time()
        told = tuple(told_under_way(request, now, wall) for request in requests[:_MOST_UNDER_WAY])
        return RequestsTold(question.number, told, len(requests) - len(told))

    def _cancel(self, id: str) -> int:
        found = [request for request in self.under_way() if request.record.id.text == id]
        for request in found:
            request.cut(Refusal(_CANCELLED, "request_cancelled", "an operator has cancelled this request"))
        return len(found)


def event_tokens(record: RequestRecord) -> int:
    """Return how many tokens a stream without usage had, by its events."""
    return max(0, record.events - _WITHOUT_TOKEN.get(record.route, 1))


def told_under_way(request: LiveRequest, now: float, wall: float) -> ToldRequest:
    """Return a request that waits or runs as muxd is told it; `now` is monotonic, `wall` seconds since the epoch."""
    record = request.record
    age = now - record.arrived
    return ToldRequest(
        record.id.text,
        "running" if request.is_running else "waiting",
        record.model,
        round(wall - age, 3),
        record.key,
        record.route,
        record.address,
        request.agent[:_LONGEST_AGENT],
        round(record.waited if request.is_running else age, 3),
        None if record.first_byte is None else round(record.first_byte, 4),
        round(age, 3),
        completion_tokens=record.events,
        by_events=record.events > 0,
    )


def _told_ended(record: RequestRecord) -> ToldRequest:
    by_events = not record.tokens[2] and record.events > 0
    return ToldRequest(
        record.id.text,
        "ended",
        record.model,
        round(record.ended_at - record.seconds, 3),
        record.key,
        record.route,
        record.address,
        "",
        round(record.waited, 3),
        None if record.first_byte is None else round(record.first_byte, 4),
        round(record.seconds, 4),
        record.tokens[0],
        event_tokens(record) if by_events else record.tokens[2],
        by_events,
        record.status,
        record.how,
        record.code,
    )
