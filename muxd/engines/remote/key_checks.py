"""Checks of the keys of a model whose servers run elsewhere."""

from collections.abc import Iterator, Mapping

from muxd.config.engine_options import RemoteOptions
from muxd.config.model_schema import Model
from muxd.config.rules import Finding

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
    if model.replicas > 1:
        yield ("replicas",), "leave this out, and name each server in urls"
    if not options.urls and options.discovery is None:
        yield ("urls",), 'missing; give the servers, as in urls = ["http://10.0.0.7:30000"], or discovery'
    if options.urls and options.discovery is not None:
        yield ("discovery",), "urls is there too; keep one of them"
    if options.discovery is not None and not options.discovery.selector:
        yield ("discovery", "selector"), 'missing; give the labels of the pods, as in { app = "qwen" }'
    if environ is not None and options.api_key_env and not environ.get(options.api_key_env):
        text = f"{options.api_key_env} is not set, or empty, where muxd runs"
        yield ("api_key_env",), f"{text}; set it, or leave this out"
