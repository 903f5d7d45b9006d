"""Servers that run elsewhere, behind a sglang-router of their model's own: the router is the process that muxd has.

It is told the servers by the worker API, with the key that they ask for, or finds them in Kubernetes by itself.  The
model is ready while it passes requests to one server at least.  A Unix socket has a bridge to a port of loopback.
"""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from muxd.config.engine_options import UNIX, RemoteOptions, any_unix
from muxd.config.model_schema import Model
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import CommandSpec, LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.routers import SGLangRouter
from muxd.engines.routers.sglang_router import free_port
from muxd.errors import RemoteSilent
from muxd.ports import HOST

log = logging.getLogger(__name__)

#: The file in the work folder by which the bridge is told its ports and sockets.
BRIDGES = "bridges"


class RemoteServers(SGLangRouter):
    """The servers of one model, as their router sees them."""

    def __init__(self) -> None:
        super().__init__()
        self._urls: tuple[str, ...] = ()  # as configured
        self._ports: dict[str, int] = {}  # of the bridges, by URL of a Unix socket
        self._bridges: Path | None = None  # None: there is no bridge
        self._silent: tuple[str, ...] = ()  # those that do not answer
        self._is_told = True

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        options = _options(model)
        self._is_told = bool(options.urls)
        self._urls, self._ports = options.urls, {}
        self._api_key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
        self._bridges = context.workdir / BRIDGES if any_unix(options.urls) else None
        router = super().command(model, context)
        argv = (*router.argv, *_flags(options))
        if self._bridges is None:
            return CommandSpec(argv)
        bridge = (sys.executable, "-m", "muxd.engines.remote.bridge", str(self._bridges), *argv)
        return CommandSpec(bridge, files={self._bridges: self._bridge_lines()})

    def _bridge_lines(self) -> str:
        """Return what the bridge is told; Unix sockets that are new have ports from now on."""
        sockets = [url for url in self._urls if url.startswith(UNIX)]
        self._ports = {url: self._ports.get(url) or free_port() for url in sockets}
        return "".join(f"{port} {url.removeprefix(UNIX)}\n" for url, port in self._ports.items())

    def _take_over(self, urls: tuple[str, ...]) -> None:
        """Have the servers be these from now on; the router is told when it is looked at."""
        self._urls = urls
        if self._bridges is not None:
            written = self._bridges.with_suffix(".new")
            written.write_text(self._bridge_lines())
            written.replace(self._bridges)

    def _told(self, url: str) -> str:
        """Return the URL that the router is told for one that is configured."""
        return f"http://{HOST}:{self._ports[url]}" if url in self._ports else url

    async def is_ready(self, link: EngineClient) -> bool:
        try:
            return await self._serves(link)
        except EngineCallFailed:
            return False

    async def is_alive(self, link: EngineClient, model: Model) -> bool:
        if self._is_told and _options(model).urls != self._urls:
            self._take_over(_options(model).urls)
        return await self.is_ready(link)

    async def _serves(self, link: EngineClient) -> bool:
        """Say whether the router passes requests to a server; note which servers do not answer."""
        if not self._is_told:  # its flags have told the router, or it finds pods by itself
            return await link.probe("/readiness") == 200
        answering = await self.sync(link, tuple(map(self._told, self._urls)))
        silent = tuple(url for url in self._urls if self._told(url) not in answering)
        if silent != self._silent:
            self._silent = silent
            self.notice = f"no answer from {', '.join(silent)}; the other servers have its requests" if silent else ""
            if silent and answering:
                log.warning("no answer from %s; the other servers of its model have its requests", ", ".join(silent))
        return bool(answering)

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        if not evidence.timed_out:
            return super().diagnose(evidence, model)
        servers = (*_options(model).urls, *_options(model).prefill, *_options(model).decode)
        if not servers:
            message = "its router found no pod that answers"
            return Diagnosis(RemoteSilent.code, message, "compare discovery with the labels of the pods")
        half = "" if self._is_told else ", or one half of prefill and decode"
        message = f"none of its servers answers{half}: {', '.join(servers)}"
        return Diagnosis(RemoteSilent.code, message, "start them, or correct their addresses")


def _options(model: Model) -> RemoteOptions:
    assert isinstance(model.engine_options, RemoteOptions)
    return model.engine_options


def _flags(options: RemoteOptions) -> Iterator[str]:
    """Yield the flags by which the router is told of prefill and decode, or finds pods by itself."""
    for url in options.prefill:
        yield from ("--prefill", *url.split(" "))
    for url in options.decode:
        yield from ("--decode", url)
    found = options.discovery
    if options.prefill or (found is not None and found.prefill_selector):
        yield "--pd-disaggregation"
    if found is None:
        return
    yield from ("--service-discovery", "--service-discovery-port", str(found.port))
    if found.namespace:
        yield from ("--service-discovery-namespace", found.namespace)
    for flag, labels in (
        ("--selector", found.selector),
        ("--prefill-selector", found.prefill_selector),
        ("--decode-selector", found.decode_selector),
    ):
        if labels:
            yield from (flag, *(f"{name}={value}" for name, value in labels.items()))
