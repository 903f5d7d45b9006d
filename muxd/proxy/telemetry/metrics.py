"""What the proxy counts, as plain integers and lists; `page` makes Prometheus text of them.

prometheus-client's own objects take a lock: 0.30 us for one counter and 0.74 us for one histogram,
their labels looked up before (0.9 us more), where a histogram here takes 0.13, and `finished`,
which is both, 0.27 (timeit, python 3.11).  Only one thread counts, and a page is made of the
numbers in the same one, so that no lock is needed.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

#: Upper bounds in seconds; a value that equals a bound is under it.
FIRST_BYTE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, inf)
GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, inf)
REQUEST_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, inf)
WAIT_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, inf)


class Histogram:
    """`counts[i]`: values up to `bounds[i]` and above the bound before."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class BufferedHistogram(Histogram):
    """One whose values are put into `noted`, and counted many at a time.

    What is done between two system calls is done with cold caches: to count there takes 2 us, to note 0.1.  Who has
    made it longer than MOST_NOTED calls `flush`, and so does who reads.
    """

    MOST_NOTED = 255

    __slots__ = ("noted",)

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__(bounds)
        self.noted: list[float] = []  # always the same list

    def flush(self) -> Histogram:
        for seconds in self.noted:
            self.add(seconds)
        self.noted.clear()
        return self


class ModelMetrics:
    """One model's.  Times in seconds."""

    __slots__ = (
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
        self.gaps = BufferedHistogram(GAP_BOUNDS)  # between two reads of a streamed answer
        self.waits = Histogram(WAIT_BOUNDS)
        # The bound methods themselves: a method around each would cost another 0.05 us.
        self.first_byte = self.first_bytes.add  # of a streamed answer, from the request's arrival
        self.waited = self.waits.add  # in the queue
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.replays = 0

    def finished(self, route: str, status: int, seconds: float) -> None:
        """A request that got `status`, `seconds` after it came; `route` is a listed one, never the client's words."""
        key = (route, status)
        self.finished_by[key] = self.finished_by.get(key, 0) + 1
        self.requests.add(seconds)

    def tokens(self, prompt: int, cached: int, completion: int) -> None:
        """`cached` of the `prompt` tokens were not computed again."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion

    def replayed(self) -> None:
        """A request was sent once more, because its worker died before it answered."""
        self.replays += 1


class Gauges(NamedTuple):
    """What is so now, and not counted here."""

    clients: int = 0
    buffered_bytes: int = 0
    access_log_dropped: int = 0
    models: Mapping[str, tuple[int, int]] = MappingProxyType({})  # name: waiting, in flight


class ProxyMetrics:
    """All counts of a proxy.  `gauges` is asked at each scrape."""

    def __init__(self, gauges: Callable[[], Gauges] = Gauges) -> None:
        self.gauges = gauges
        self.models: dict[str, ModelMetrics] = {}
        self.rejections: dict[str, int] = {}

    def of(self, model: str) -> ModelMetrics:
        """The meter of muxd's own name of a model: one of the configuration, so that clients cannot make more."""
        meter = self.models.get(model)
        if meter is None:
            meter = self.models[model] = ModelMetrics()
        return meter

    def rejected(self, code: str) -> None:
        """The proxy itself refused a request, with this error code."""
        self.rejections[code] = self.rejections.get(code, 0) + 1
