"""GET /metrics: some of SGLang's own metrics, with their names and labels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter

from .routes import EngineRoute
from .simulated_engine import SimulatedEngine

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_routes(engine: SimulatedEngine) -> dict[str, EngineRoute]:
    """Return the route by path; an empty dict without --enable-metrics."""
    return {"/metrics": EngineRoute(_Metrics(engine).answer)} if engine.flags.enable_metrics else {}


class _Metrics:
    """The handler of /metrics, and the collector that prometheus_client reads."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._name = engine.served_model_name  # a reload does not change the label, as in SGLang

    async def answer(self, request: Request, exchange: ResponseWriter) -> None:
        from prometheus_client import generate_latest  # the import takes 40 ms, and few servers need it

        await exchange.send_body(_TYPE, generate_latest(self))

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        batch = self._engine.batch
        engine, rank = ("engine_type", "model_name"), ("moe_ep_rank", "pp_rank", "tp_rank")
        here = ("unified", self._name)
        for name, what, value in (
            ("sglang:num_running_reqs", "The number of running requests.", batch.running),
            ("sglang:num_queue_reqs", "The number of requests in the waiting queue.", batch.waiting),
        ):
            gauge = GaugeMetricFamily(name, what, labels=(*engine, *rank))
            gauge.add_metric((*here, *("0" for _ in rank)), value)
            yield gauge
        for name, what, value in (
            ("sglang:generation_tokens", "Number of generation tokens processed.", batch.made),
            ("sglang:num_requests", "Number of requests processed.", batch.left),
        ):
            counter = CounterMetricFamily(name, what, labels=engine)
            counter.add_metric(here, value)
            yield counter
