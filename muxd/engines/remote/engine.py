"""Servers that run elsewhere, behind a sglang-router of their model's own: the router is the process that muxd has.

It is told the servers by the worker API, with the key that they ask for, or finds them in Kubernetes by itself.  The
model is ready while it passes requests to one server at least.  A Unix socket has a bridge to a port of loopback.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence

from muxd.config.engine_options import RemoteOptions
from muxd.config.model_schema import Model
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.routers import SGLangRouter
from muxd.engines.routers.sglang_router import free_port
from muxd.errors import RemoteSilent
from muxd.ports import HOST

log = logging.getLogger(__name__)

UNIX = "unix:"


class RemoteServers(SGLangRouter):
    """The servers of one model, as their router sees them."""

    def __init__(self) -> None:
        super().__init__()
        self._urls: dict[str, str] = {}  # as configured, by the URLs that the router is told
        self._silent: tuple[str, ...] = ()  # those that do not answer, as configured
        self._discovers = False

    def _argv(self, model: Model, context: LaunchContext) -> tuple[str, ...]:
        options = _options(model)
        self._discovers = options.discovery is not None
        ports = {url: free_port() for url in options.urls if url.startswith(UNIX)}
        self._urls = {f"http://{HOST}:{ports[url]}" if url in ports else url: url for url in options.urls}
        self._api_key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
        router = (*super()._argv(model, context), *_discovery_flags(options))
        if not ports:
            return router
        bridges = (f"{port}={url.removeprefix(UNIX)}" for url, port in ports.items())
        return (sys.executable, "-m", "muxd.engines.remote.bridge", *bridges, "--", *router)

    async def is_ready(self, link: EngineClient) -> bool:
        try:
            return await self._serves(link)
        except EngineCallFailed:
            return False

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        return await self.is_ready(link)

    async def _serves(self, link: EngineClient) -> bool:
        """Say whether the router passes requests to a server; note which servers do not answer."""
        if self._discovers:
            return await link.probe("/readiness") == 200
        answering = await self.sync(link, tuple(self._urls))
        silent = tuple(url for told, url in self._urls.items() if told not in answering)
        if silent != self._silent:
            self._silent = silent
            self.notice = f"no answer from {', '.join(silent)}; the other servers have its requests" if silent else ""
            if silent and answering:
                log.warning("no answer from %s; the other servers of its model have its requests", ", ".join(silent))
        return bool(answering)

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        if not evidence.timed_out:
            return super().diagnose(evidence, model)
        if self._discovers:
            message = "its router found no pod that answers"
            return Diagnosis(RemoteSilent.code, message, "compare discovery with the labels of the pods")
        message = f"none of its servers answers: {', '.join(_options(model).urls)}"
        return Diagnosis(RemoteSilent.code, message, "start them, or correct urls")


def _options(model: Model) -> RemoteOptions:
    assert isinstance(model.engine_options, RemoteOptions)
    return model.engine_options


def _discovery_flags(options: RemoteOptions) -> Iterator[str]:
    """Yield the flags by which the router finds pods; see its `--service-discovery`."""
    if (found := options.discovery) is None:
        return
    yield from ("--service-discovery", "--service-discovery-port", str(found.port))
    yield from ("--selector", *_labels(found.selector))
    if found.namespace:
        yield from ("--service-discovery-namespace", found.namespace)


def _labels(selector: dict[str, str]) -> Sequence[str]:
    return [f"{name}={value}" for name, value in selector.items()]
