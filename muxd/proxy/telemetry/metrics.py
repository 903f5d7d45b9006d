"""The proxy's counts, as plain integers and lists; `exposition` makes Prometheus text of them.

prometheus-client's own objects take a lock: 0.30 us for one counter and 0.74 us for one histogram, with their labels
looked up before (0.9 us more).  Here a histogram takes 0.13 us (timeit, python 3.11).  One thread counts and makes the
pages, so that no lock is needed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

#: Upper bounds in seconds; a value that equals a bound is under it.
FIRST_BYTE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, inf)
GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, inf)
REQUEST_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, inf)
WAIT_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, inf)


#: Requests that `ModelMetrics.usual_answer` goes by.
OF_LATE = 200


class Histogram:
    """A histogram; `counts[i]` is the number of values up to `bounds[i]` and above the bound before."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def add_all(self, values: list[float]) -> None:
        """Count several values, without a call for each."""
        counts, bounds = self.counts, self.bounds
        for seconds in values:
            counts[bisect_left(bounds, seconds)] += 1
        self.total += sum(values)


class BufferedHistogram(Histogram):
    """A histogram whose values are appended to `noted`, and counted many at a time.

    Between two system calls the caches are cold: to count a value there takes 2 us, to note it 0.1 us.  Code that makes
    `noted` longer than MOST_NOTED calls `flush`, and so does code that reads the counts.
    """

    MOST_NOTED = 255

    __slots__ = ("noted",)

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.noted: list[float] = []  # the same list for the histogram's life: callers may keep it

    def flush(self) -> Histogram:
        """Count the noted values; return this histogram.

        They are sorted, and the bounds looked up among them: there are fewer bounds.
        """
        noted, before = self.noted, 0
        noted.sort()
        for index, bound in enumerate(self.bounds):
            under = bisect_right(noted, bound)
            self.counts[index] += under - before
            before = under
        self.total += sum(noted)
        noted.clear()
        return self


class ModelMetrics:
    """The counts of one model.  Times in seconds."""

    __slots__ = (
        "_answers",
        "_at_workers",
        "_usual_answer",
        "cached_tokens",
        "completion_tokens",
        "finished_by",
        "first_byte",
        "first_bytes",
        "gaps",
        "prompt_tokens",
        "replays",
        "requests",
        "waited",
        "waits",
    )

    def __init__(self) -> None:
        self.finished_by: dict[tuple[str, int], int] = {}  # (route, status)
        self.requests = Histogram(REQUEST_BOUNDS)
        self.first_bytes = Histogram(FIRST_BYTE_BOUNDS)
        self.gaps = BufferedHistogram(GAP_BOUNDS)  # between two reads of a streamed response
        self.waits = Histogram(WAIT_BOUNDS)
        # Bound methods, as a method around each would cost another 0.05 us per call.
        self.first_byte = self.first_bytes.add  # add a time from the request's arrival to a stream's first byte
        self.waited = self.waits.add  # add a time in the queue
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.replays = 0
        self._answers = 0  # as `usual_answer` last saw them, with the seconds that all requests were at workers
        self._at_workers = self._usual_answer = 0.0

    def usual_answer(self) -> float | None:
        """Return the seconds that a request with an answer is at its worker: the mean of about the last `OF_LATE`.

        None where none was answered yet.  Requests that were refused took no time there, and do not count.
        """
        answers = sum(count for (_, status), count in self.finished_by.items() if status < 400)
        seconds = self.requests.total - self.waits.total
        if answers > self._answers:
            mean = max(0.0, seconds - self._at_workers) / (answers - self._answers)
            share = (answers - self._answers) / min(answers, OF_LATE)
            self._usual_answer += (mean - self._usual_answer) * min(1.0, share)
            self._answers, self._at_workers = answers, seconds
        return self._usual_answer if answers else None

    def finished(self, route: str, status: int, seconds: list[float]) -> None:
        """Count requests that ended with `status`, each after its seconds.

        `route` is of a bounded set, no client's words.
        """
        key = (route, status)
        self.finished_by[key] = self.finished_by.get(key, 0) + len(seconds)
        self.requests.add_all(seconds)

    def tokens(self, prompt: int, cached: int, completion: int) -> None:
        """Count the tokens of responses; `cached` of the `prompt` tokens were not computed again."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def replayed(self) -> None:
        """Count a request that was sent again because its worker died before the response began."""
        self.replays += 1


class Gauges(NamedTuple):
    """The figures of this moment, which other parts of the proxy know."""

    clients: int = 0
    buffered_bytes: int = 0
    access_log_dropped: int = 0
    models: Mapping[str, tuple[int, int]] = MappingProxyType({})  # by muxd's name: waiting, in flight
    processes: int = 1  # that answer
    batch: Mapping[str, tuple[int, int]] = MappingProxyType({})  # likewise, of these the batch ones


class ProxyMetrics:
    """All counts of a proxy.  `gauges` is called at each scrape."""

    def __init__(self, gauges: Callable[[], Gauges] = Gauges) -> None:
        self.gauges = gauges
        self.models: dict[str, ModelMetrics] = {}
        self.rejections: dict[str, int] = {}

    def of(self, model: str) -> ModelMetrics:
        """Return the counts of the model with muxd's name `model`, made at the first call.

        The name must be one of the configuration, so that clients cannot make more of them.
        """
        meter = self.models.get(model)
        if meter is None:
            meter = self.models[model] = ModelMetrics()
        return meter

    def rejected(self, code: str) -> None:
        """Count a request that the proxy refused or cut, by the error's code."""
        self.rejections[code] = self.rejections.get(code, 0) + 1
