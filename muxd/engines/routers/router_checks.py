"""Checks of the table `router`: what sglang-router's command line would refuse, or muxd sets itself."""

import re
import shutil
from collections.abc import Iterator, Mapping

from muxd.config.findings import Finding
from muxd.config.flags import owned_flag
from muxd.config.router_options import RouterOptions

# Flags that muxd itself sets for the router, each with what the user does instead.
_WORKERS = "leave it out: muxd tells the router its workers"
OWNED_FLAGS = {
    "--host": "leave it out: the router listens on loopback only, for the proxy",
    "--port": "use the model's key port",
    "--policy": "use the key policy",
    "--cache-threshold": "use the key cache_threshold",
    "--balance-abs-threshold": "use the key balance_abs_threshold",
    "--balance-rel-threshold": "use the key balance_rel_threshold",
    "--request-id-headers": "use the key request_id_headers",
    "--log-dir": "use the key log_dir",
    "--prometheus-port": "use the key prometheus_port",
    "--prometheus-host": "leave it out: the metrics are on loopback, and muxd merges them into its own",
    "--worker-urls": _WORKERS,
    "--pd-disaggregation": _WORKERS,
    "--prefill": _WORKERS,
    "--decode": _WORKERS,
    "--service-discovery": _WORKERS,
    "--enable-igw": "leave it out: each model has a router of its own",
    "--api-key": "leave it out: clients show keys to the proxy, see [[keys]]",
    "--mini-lb": "leave it out: muxd drives the whole router",
}


def findings(options: RouterOptions, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with a model's table `router`; without `environ` no interpreter is looked for."""
    for arg in options.args:
        flag = re.split(r"[=\s]", arg, maxsplit=1)[0]
        if owned := owned_flag(flag, OWNED_FLAGS):
            named = f" {owned}" if owned != flag else ""
            yield ("router", "args"), f"{flag} is muxd's own{named}; {OWNED_FLAGS[owned]}"
    if environ is not None and options.python and not shutil.which(options.python, path=environ.get("PATH")):
        text = f"{options.python} is not an executable that can be found"
        yield ("router", "python"), f"{text}; give the path of a python that has sglang-router"
