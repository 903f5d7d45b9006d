"""Virtual time, the engines on a GPU, and the clients who ask them; who decides is a `Host`."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil, inf
from typing import Protocol

#: So many requests an engine answers at once; more wait in it, in their order.
SLOTS = 16

#: Seconds after which what is in flight is cut off by a drain, whoever decides.
DRAIN_TIMEOUT = 300.0

#: A switch is a sleep and a wake, which take these parts of its cost.
SLEEP_SHARE, WAKE_SHARE = 1 / 3, 2 / 3

#: What a cold start takes of the cost of a switch.
START_SHARE = 3.0


class End(StrEnum):
    """How a request came to its end."""

    SERVED = "served"
    LEFT = "left"  # its client went away while it waited
    CUT = "cut"  # a drain took too long


@dataclass(slots=True, eq=False)
class Request:
    """What a client wants; times in seconds.  `seconds`: of its answer, once an engine has begun with it."""

    model: str
    at: float
    seconds: float
    patience: float = inf  # its client waits no longer
    session: "Session | None" = None
    started: float | None = None
    ended: float | None = None
    end: End | None = None

    @property
    def wait(self) -> float:
        """Return the seconds until an engine began with it; inf where none did."""
        return inf if self.started is None else self.started - self.at


@dataclass(slots=True)
class Session:
    """A client in a closed loop: it thinks after each answer, then sends its next request."""

    turns: deque[tuple[str, float, float]]  # model, seconds of thought before, seconds of the answer


@dataclass(frozen=True, slots=True)
class Workload:
    """What comes to a GPU; the same for every host."""

    name: str
    models: tuple[str, ...]
    requests: tuple[Request, ...] = ()
    sessions: tuple[Session, ...] = ()
    crashes: tuple[float, ...] = ()  # the first load after each of these times comes to nothing
    awake_together: int = 1  # so many models the GPU holds at once

    def fresh(self) -> "Workload":
        """Return the workload as it is before anybody has seen it."""
        again = tuple(Request(r.model, r.at, r.seconds, r.patience) for r in self.requests)
        sessions = tuple(Session(deque(session.turns)) for session in self.sessions)
        return Workload(self.name, self.models, again, sessions, self.crashes, self.awake_together)


class Host(Protocol):
    """Who decides which model is awake."""

    switches: int

    def begin(self, world: "World") -> None: ...

    def arrived(self, request: Request) -> None: ...

    def left(self, request: Request) -> None: ...

    def answered(self, request: Request) -> None: ...


@dataclass(slots=True)
class Engine:
    """A model's engine: what it answers, and what waits in it."""

    running: list[Request] = field(default_factory=list)
    queue: deque[Request] = field(default_factory=deque)

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.queue


class World:
    def __init__(self, workload: Workload, host: Host, cost: float) -> None:
        """`cost`: seconds of a switch."""
        self._given, self.workload = workload, workload.fresh()
        self.host = host
        self.cost = cost
        self.now = 0.0
        self.engines = {model: Engine() for model in workload.models}
        self.requests: list[Request] = []
        self._ahead: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._crashes = deque(workload.crashes)
        self._crashed: list[float] = []

    @property
    def sleep_time(self) -> float:
        return self.cost * SLEEP_SHARE

    @property
    def wake_time(self) -> float:
        return self.cost * WAKE_SHARE

    @property
    def start_time(self) -> float:
        return self.cost * START_SHARE

    def crashes_now(self) -> bool:
        """Say whether the load that begins now comes to nothing."""
        if self._crashes and self._crashes[0] <= self.now:
            self._crashes.popleft()
            self._crashed.append(self.now)
            return True
        return False

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._ahead, (when, next(self._count), what))

    def run(self, until: float = inf) -> "Run":
        """Let everything come to its end."""
        self.host.begin(self)
        for request in self.workload.requests:
            self.at(request.at, lambda request=request: self._arrive(request))  # type: ignore[misc]
        for session in self.workload.sessions:
            self._go_on(session)
        while self._ahead and self._ahead[0][0] <= until:
            self.now, _, what = heapq.heappop(self._ahead)
            what()
        return Run(self._given, self.cost, self.requests, self.host.switches, self._crashed)

    def _go_on(self, session: Session) -> None:
        if session.turns:
            model, thought, seconds = session.turns.popleft()
            request = Request(model, self.now + thought, seconds, session=session)
            self.at(request.at, lambda: self._arrive(request))

    def _arrive(self, request: Request) -> None:
        self.requests.append(request)
        if request.patience < inf:
            self.at(request.at + request.patience, lambda: self._leave(request))
        self.host.arrived(request)

    def _leave(self, request: Request) -> None:
        if request.started is None and request.end is None:
            self._end(request, End.LEFT)
            queue = self.engines[request.model].queue
            if request in queue:
                queue.remove(request)
                self.host.answered(request)
            else:
                self.host.left(request)

    # What a host does with requests

    def admit(self, request: Request) -> None:
        """Send it to its engine."""
        self.engines[request.model].queue.append(request)
        self._fill(request.model)

    def cut(self, model: str) -> None:
        """Cut off all that the model has in flight."""
        engine = self.engines[model]
        for request in (*engine.running, *engine.queue):
            self._end(request, End.CUT)
        engine.running.clear()
        engine.queue.clear()

    def _fill(self, model: str) -> None:
        engine = self.engines[model]
        while engine.queue and len(engine.running) < SLOTS:
            request = engine.queue.popleft()
            request.started = self.now
            engine.running.append(request)
            self.at(self.now + request.seconds, lambda request=request: self._answer(request))  # type: ignore[misc]

    def _answer(self, request: Request) -> None:
        if request.end is None:
            self.engines[request.model].running.remove(request)
            self._end(request, End.SERVED)
            self._fill(request.model)
            self.host.answered(request)

    def _end(self, request: Request, end: End) -> None:
        assert request.end is None, f"{request} ends twice"
        request.end, request.ended = end, self.now
        if request.session is not None:
            self._go_on(request.session)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a workload."""

    workload: Workload
    cost: float
    requests: list[Request]
    switches: int
    crashed: list[float]  # when loads began that came to nothing

    @property
    def waits(self) -> Mapping[str, list[float]]:
        """Return the waits of those who stayed, by model."""
        stayed = [request for request in self.requests if request.end is not End.LEFT]
        return {model: [r.wait for r in stayed if r.model == model] for model in self.workload.models}

    @property
    def all_waits(self) -> list[float]:
        return sorted(wait for waits in self.waits.values() for wait in waits)

    @property
    def in_time(self) -> float:
        """Return the seconds within which an answer that has begun counts as good."""
        return max(20.0, 2.5 * self.cost)

    def good(self, model: str | None = None) -> int:
        """Return how many requests, of one model or of all, were begun in time and were not cut off."""
        return sum(
            request.wait <= self.in_time and request.end is End.SERVED
            for request in self.requests
            if model in (None, request.model)
        )

    @property
    def mean(self) -> float:
        return sum(self.all_waits) / len(self.all_waits)

    @property
    def worst(self) -> float:
        return self.all_waits[-1]

    @property
    def p99(self) -> float:
        waits = self.all_waits
        return waits[ceil(0.99 * len(waits)) - 1]

    @property
    def seconds(self) -> float:
        """Return when the last answer ended."""
        return max(request.ended or 0.0 for request in self.requests)

    @property
    def service(self) -> float:
        """Return the share of the GPU's time that answers need, where its engine is always full."""
        work = sum(request.seconds for request in self.requests if request.end is End.SERVED)
        span = max(request.at for request in self.requests)
        return work / SLOTS / max(span, 1.0)
