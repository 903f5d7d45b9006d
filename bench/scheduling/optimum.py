"""What somebody could have had who knew every request before it came: the least mean wait, by exact search.

A schedule is a sequence of turns.  In a turn one model answers some of its requests, each as it comes or, where it
waited, when the turn begins; the turn ends with the last of these answers, and the switch to the next model follows at
once: whoever waits with it can as well wait awake.  Given when a turn ends, each request that can be answered by then
is, for it costs nobody anything.  So a turn is one choice, of the answer that ends it, and what is left to do is known
by the awake model, the requests left, and the time: of two ways to the same requests, one that is neither sooner nor
has less waiting so far is dropped.

Engines answer any number of requests at once here: instances are smaller than `world.SLOTS`.
"""

from collections import defaultdict
from math import inf

from .world import SLOTS, Workload


def least_mean_wait(workload: Workload, cost: float, *, on_demand: bool = False) -> float:
    """Return the least mean wait in seconds.

    `on_demand`: a switch may not begin before a request for its target has come, as for everybody who does not know the
    future.
    """
    requests, count = workload.requests, len(workload.requests)
    assert count <= SLOTS, f"{count} requests do not fit into an engine at once"
    of = {model: [n for n, request in enumerate(requests) if request.model == model] for model in workload.models}
    everything = (1 << count) - 1
    ways: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    ways[everything] = defaultdict(list, {workload.models[0]: [(0.0, 0.0)]})
    for model in workload.models[1:]:
        first = min((requests[n].at for n in of[model]), default=inf)
        ways[everything][model] = [((first if on_demand else 0.0) + cost, 0.0)]
    best = inf
    for left in range(everything, 0, -1):  # what is left only ever becomes less
        for model, labels in ways.pop(left, {}).items():
            waiting = [n for n in of[model] if left >> n & 1]
            for since, waited in labels:
                begins = {n: max(since, requests[n].at) for n in waiting}
                for ends in {begins[n] + requests[n].seconds for n in waiting}:
                    served = [n for n in waiting if begins[n] + requests[n].seconds <= ends]
                    rest = left & ~sum(1 << n for n in served)
                    total = waited + sum(begins[n] - requests[n].at for n in served)
                    if not rest:
                        best = min(best, total)
                        continue
                    for other in workload.models:
                        wanted = [requests[n].at for n in of[other] if rest >> n & 1]
                        if wanted and other != model:
                            at = max(ends, min(wanted)) if on_demand else ends
                            _add(ways[rest][other], at + cost, total)
    return best / count


def _add(labels: list[tuple[float, float]], at: float, waited: float) -> None:
    """Add a way unless one that is known is as good; drop those that it makes useless."""
    if any(t <= at and w <= waited for t, w in labels):
        return
    labels[:] = [(t, w) for t, w in labels if not (at <= t and waited <= w)]
    labels.append((at, waited))
