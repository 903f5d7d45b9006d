"""The table `router` of a model with several workers: how its router is run and what it goes by."""

from dataclasses import dataclass
from pathlib import Path

from .declarations import key
from .readers import choice, command, header_names, integer, number, path, texts


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Options of a group's router, which is sglang-router."""

    policy: str = key(
        choice("cache_aware", "power_of_two", "random", "round_robin", "manual"),
        "cache_aware",
        doc="Who gets the next request: cache_aware, the worker that has most of its beginning in its cache, as long "
        "as none has far more to do than another; power_of_two, the less loaded of two drawn by lot; random; "
        "round_robin, each in its turn; manual, the one that has had the key in a request's header X-SMG-Routing-Key.",
    )
    cache_threshold: float | None = key(
        number(above=0, high=1),
        unset=None,
        example=0.3,
        doc="cache_aware: so much of a prompt must be in a worker's cache to decide, else the emptiest cache does.",
    )
    balance_abs_threshold: int | None = key(
        integer(0, 1_000_000),
        unset=None,
        example=64,
        doc="cache_aware: with so many requests between the busiest worker and the idlest, the idlest gets it ...",
    )
    balance_rel_threshold: float | None = key(
        number(above=0, high=1000), unset=None, example=1.5, doc="... if the busiest has so many times as many, too."
    )
    request_id_headers: tuple[str, ...] = key(
        header_names, [], doc="Headers that the router takes a request's id from, for its log."
    )
    log_dir: Path | None = key(
        path, unset=None, example="/var/log/muxd/qwen-router", doc="A folder for log files of the router's own making."
    )
    prometheus_port: int = key(
        integer(0, 65535),
        0,
        doc="The port of the router's own metrics on loopback, which muxd merges into its own; 0: any free one.",
    )
    python: str = key(
        command,
        unset="",
        example="/opt/router/bin/python",
        doc="The interpreter that has sglang-router.  Default: muxd's own, see `pip install 'muxd[router]'`.",
    )
    args: tuple[str, ...] = key(
        texts, [], doc="Further flags of sglang-router, passed on unchanged; muxd check asks its own parser of them."
    )
