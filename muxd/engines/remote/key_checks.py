"""Checks of the keys of a model whose servers run elsewhere."""

from collections.abc import Iterator, Mapping

from muxd.config.engine_options import RemoteOptions
from muxd.config.findings import Finding
from muxd.config.model_schema import Model

_OF_A_PROCESS = {
    "model_path": "the servers that run there have it",
    "args": "muxd starts no server for it; flags of its router go into router",
    "memory": "it takes no memory of this host",
}


def findings(model: Model, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with a model of remote servers; see `EngineKind.findings`."""
    options = model.engine_options
    assert isinstance(options, RemoteOptions)
    for name, why in _OF_A_PROCESS.items():
        if getattr(model, name):
            yield (name,), f"leave this out: {why}"
    for name, is_set in (("replicas", model.replicas > 1), ("max_replicas", model.max_replicas > 1)):
        if is_set:
            yield (name,), "leave this out, and name each server in urls"
    yield from _sources(options)
    if options.external and (options.prefill or options.decode or options.discovery):
        yield ("external",), "it is of no effect without urls"
    if with_path := [url for url in options.urls if not options.external and url.count("/") > 2 and "://" in url]:
        yield ("urls",), f"{with_path[0]} has a path: write scheme, host and port alone, or external = true"
    if options.api_key_env and not options.urls:
        yield ("api_key_env",), "it is of no effect without urls: prefill, decode and pods are asked without a key"
    elif environ is not None and options.api_key_env and not environ.get(options.api_key_env):
        text = f"{options.api_key_env} is not set, or empty, where muxd runs"
        yield ("api_key_env",), f"{text}; set it, or leave this out"


def _sources(options: RemoteOptions) -> Iterator[Finding]:
    """Yield what is wrong with where the servers are: one of `urls`, `prefill` with `decode`, and `discovery`."""
    given = {"prefill": options.prefill, "decode": options.decode}
    halves = {name: half if isinstance(half, tuple) else () for name, half in given.items()}
    if any(not isinstance(half, tuple) for half in given.values()):
        return  # said for any engine whose servers run elsewhere
    said = [name for name in ("urls", "prefill", "discovery") if getattr(options, name)]
    if not said and not options.decode:
        yield ("urls",), 'missing; give the servers, as in urls = ["http://10.0.0.7:30000"], or discovery'
    if len(said) > 1:
        yield (said[-1],), f"{said[0]} is there too; keep one of them"
    for name, other in (("prefill", "decode"), ("decode", "prefill")):
        if halves[name] and not halves[other]:
            yield (other,), f"missing: servers that {name} are of no use without those that {other}"
        if any(url.startswith("unix:") for url in halves[name] or ()):
            yield (name,), "prefill and decode are asked over TCP; give addresses of http"
    if (found := options.discovery) is None:
        return
    if bool(found.prefill_selector) != bool(found.decode_selector):
        lacking = "decode_selector" if found.prefill_selector else "prefill_selector"
        yield ("discovery", lacking), "missing: prefill and decode are of no use without each other"
    elif not found.selector and not found.prefill_selector:
        yield ("discovery", "selector"), 'missing; give the labels of the pods, as in { app = "qwen" }'
