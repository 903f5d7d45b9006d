"""The requests of all proxies: those under way are asked for when somebody wants to see them, those that ended kept."""

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec
import trio

from muxd.history import History
from muxd.protocol import (
    ActivityReport,
    CancelWish,
    MuxdMessage,
    Question,
    RequestsCancelled,
    RequestsTold,
    RequestsWanted,
    ToldRequest,
)

from .wire import Line

#: Seconds that a proxy has to say which requests it has; one that does not answer is left out.
PATIENCE = 1.0


class AskedProxy(Protocol):
    def say(self, message: MuxdMessage) -> None: ...


class _Answers:
    """What was answered to one question so far, and by whom it is still to be answered."""

    def __init__(self, proxies: Collection[AskedProxy]) -> None:
        self.told: list[RequestsTold | RequestsCancelled] = []
        self.missing = set(proxies)
        self.complete = trio.Event()
        if not self.missing:
            self.complete.set()

    def lose(self, proxy: AskedProxy) -> None:
        self.missing.discard(proxy)
        if not self.missing:
            self.complete.set()


class RequestBoard:
    """Asks the proxies, whose sessions `proxies` returns, and keeps what they report in `history`."""

    def __init__(
        self, proxies: Callable[[], Collection[AskedProxy]], next_number: Callable[[], int], history: History
    ) -> None:
        self._proxies = proxies
        self._next_number = next_number
        self._history = history
        self.ended = history.requests
        self._open: dict[int, _Answers] = {}  # by the question's number

    async def under_way(self) -> tuple[list[Line], int]:
        """Return the requests that wait or run at any proxy, the oldest first, and how many more there are."""
        told = [each for each in await self._ask(RequestsWanted) if isinstance(each, RequestsTold)]
        requests = [request for each in told for request in each.requests]
        requests.sort(key=lambda request: (request.state != "running", request.since))
        return list(map(request_line, requests)), sum(each.left_out for each in told)

    async def cancel(self, id: str) -> int:
        """End the requests with this id at every proxy; return how many there were."""
        told = await self._ask(lambda number: CancelWish(number, id))
        return sum(each.count for each in told if isinstance(each, RequestsCancelled))

    async def _ask(self, question: Callable[[int], Question]) -> list[RequestsTold | RequestsCancelled]:
        number, proxies = self._next_number(), self._proxies()
        answers = self._open[number] = _Answers(proxies)
        try:
            for proxy in proxies:
                proxy.say(question(number))
            with trio.move_on_after(PATIENCE):
                await answers.complete.wait()
        finally:
            del self._open[number]
        return answers.told

    # Called by the sessions

    def answered(self, proxy: AskedProxy, answer: RequestsTold | RequestsCancelled) -> None:
        """Take a proxy's answer; one that comes too late is of no use any more."""
        if (answers := self._open.get(answer.number)) is not None:
            answers.told.append(answer)
            answers.lose(proxy)

    def lose(self, proxy: AskedProxy) -> None:
        """Wait no longer for a proxy that is gone."""
        for answers in list(self._open.values()):
            answers.lose(proxy)

    def report(self, report: ActivityReport) -> None:
        """Keep the requests that have ended, and count the rest."""
        self._history.report(report)
        for request in report.ended:
            self.ended.record("request", **_ended_line(request))
        if report.left_out:
            self.ended.record("requests_left_out", count=report.left_out)


def request_line(request: ToldRequest) -> Line:
    """Return a request as it is told to operators, with the tokens per second since the first one."""
    line: Line = msgspec.to_builtins(request)
    defaults = {"key": "", "route": "", "client": "", "completion_tokens": 0, "by_events": False, "waited_s": 0.0}
    line = {**defaults, "first_token_s": None, "duration_s": 0.0, **line}
    first, seconds = request.first_token_s or 0.0, request.duration_s
    took = seconds - first if request.first_token_s is not None else seconds - request.waited_s
    line["tokens_per_s"] = (
        round(request.completion_tokens / took, 1) if request.completion_tokens and took > 0 else None
    )
    return line


def _ended_line(request: ToldRequest) -> Line:
    line = request_line(request)
    line["request"] = line.pop("id")
    return line
