"""Servers that run elsewhere, behind a sglang-router of their model's own: the router is the process that muxd has.

It is told the servers by the worker API, with the key that they ask for, or finds them in Kubernetes by itself.  The
model is ready while it passes requests to one server at least.  A Unix socket has a bridge to a port of loopback.
"""

import os
import re
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from muxd.config.engine_options import UNIX, PodDiscovery, RemoteOptions, any_unix
from muxd.config.half_options import HALVES, HalfOptions
from muxd.config.model_schema import Model
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import CommandSpec, LaunchContext
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.routers import RoutedServer, SGLangRouter
from muxd.engines.routers.worker_api import Listed, is_healthy, listed_by
from muxd.errors import RemoteSilent
from muxd.ports import HOST, free_port

#: Seconds after which a router that knows of no pod is believed: 0.3.2 lists pods in its first moments, and knows one
#: that answers within a second.
FIRST_LIST = 2.0

#: Seconds for which it counts that a router could not watch pods: 0.3.2 asks again about a minute later.
WATCH_AGAIN = 120.0

#: The file in the work folder by which the bridge is told its ports and sockets.
BRIDGES = "bridges"

#: The file in the work folder with all certificates of authorities that the router is to trust.
AUTHORITIES = "authorities.pem"


class RemoteServers(SGLangRouter):
    """The servers of one model, as their router sees them."""

    def __init__(self) -> None:
        super().__init__()
        self._urls: tuple[str, ...] = ()  # as configured
        self._ports: dict[str, int] = {}  # of the bridges, by URL of a Unix socket
        self._bridges: Path | None = None  # None: there is no bridge
        self._silent: tuple[str, ...] = ()  # those that do not answer
        self._discovery: PodDiscovery | None = None
        self._halves: dict[str, list[str]] = {}  # the servers that prefill, and those that decode, by flags
        self._believed_at = inf  # when a router that knows of no pod is believed
        self._lacking: tuple[str, ...] = ()  # the flags of selectors for which it knows no pod that answers
        # The last complaint in the router's log that it cannot watch pods: its line, why, and when that was seen.
        self._watch_line, self._watch_error, self._watch_failed_at = "", "", -inf

    def command(self, model: Model, context: LaunchContext) -> CommandSpec:
        options = _options(model)
        self._is_told = bool(options.urls)
        self._urls = options.urls
        self._discovery, self.tells_by_log = options.discovery, options.discovery is not None
        halves = {half: _servers(getattr(options, half)) for half in HALVES}
        self._halves = {half: [url.split(" ")[0] for url in servers] for half, servers in halves.items() if servers}
        self._believed_at, self._lacking, self._watch_failed_at = inf, (), -inf
        self._ports = {url: int(port) for url, port in context.chosen.items() if url.startswith(UNIX)}
        self._is_external = options.external
        self._api_key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
        self._bridges = context.workdir / BRIDGES if any_unix(options.urls) else None
        router = super().command(model, context)
        router = replace(router, **_trusting(model, context.workdir / AUTHORITIES))
        if self._bridges is None:
            return router
        bridge = (sys.executable, "-m", "muxd.engines.remote.bridge", str(self._bridges), *router.argv)
        files = {**router.files, self._bridges: self._bridge_lines()}
        ports = {url: str(port) for url, port in self._ports.items()}
        return replace(router, argv=bridge, files=files, chosen=router.chosen | ports)

    def _flags_of_servers(self, model: Model) -> Iterator[str]:
        return _flags(_options(model))

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
        """Say whether the router passes requests to a server, of each half; note which servers do not answer."""
        if self._discovery is not None:
            return self._has_pods(self._discovery, await listed_by(link))
        if not self._is_told:  # its flags have told the router
            listed = await listed_by(link)
            answering = {url for url, ranks in listed.items() if is_healthy(ranks)}
            serves = all(not answering.isdisjoint(servers) for servers in self._halves.values())
            self._note_silent([url for servers in self._halves.values() for url in servers], answering, serves)
            return serves
        answering = set(await self.sync(link, [RoutedServer(self._told(url)) for url in self._urls]))
        self._note_silent(self._urls, {url for url in self._urls if self._told(url) in answering}, bool(answering))
        return bool(answering)

    def _note_silent(self, urls: Sequence[str], answering: set[str], serves: bool) -> None:
        silent = tuple(url for url in urls if url not in answering)
        if silent != self._silent:
            self._silent = silent
            others = "; the other servers have its requests" if serves else ""
            self.notice = f"no answer from {', '.join(silent)}{others}" if silent else ""

    def _has_pods(self, discovery: PodDiscovery, listed: Listed) -> bool:
        """Say whether the router knows a pod that answers for each selector; note for which it knows none."""
        healthy = [(url, ranks[0].get("worker_type")) for url, ranks in listed.items() if is_healthy(ranks)]
        found = {flag: [url for url, kind in healthy if kind == _KINDS[flag]] for flag, _ in _selectors(discovery)}
        self._lacking = tuple(flag for flag, urls in found.items() if not urls)
        now = trio.current_time()
        self._believed_at = min(self._believed_at, now + FIRST_LIST)
        if now < self._watch_failed_at + WATCH_AGAIN:
            known = "" if self._lacking else "; the pods that are known serve on"
            self.notice = f"its router cannot watch pods: {self._watch_error}{known}"
        elif self._lacking and now >= self._believed_at:
            others = ", ".join(url for urls in found.values() for url in urls)
            self.notice = _lacking_text(discovery, self._lacking) + (f"; {others} cannot serve alone" if others else "")
        else:
            self.notice = ""
        return not self._lacking

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        options = _options(model)
        if evidence.is_alive and (errors := _NO_CLUSTER.findall(evidence.said)) and errors[-1][0] != self._watch_line:
            self._watch_line, self._watch_error = errors[-1][0], errors[-1][1].strip()
            self._watch_failed_at = trio.current_time()
        if not evidence.timed_out:
            return super().diagnose(evidence, model)
        if options.discovery is not None:
            return _no_pod(options.discovery, evidence.said, self._lacking)
        servers = (*options.urls, *_servers(options.prefill), *_servers(options.decode))
        half = "" if self._is_told else ", or one half of prefill and decode"
        message = f"none of its servers answers{half}: {', '.join(servers)}"
        return Diagnosis(RemoteSilent.code, message, "start them, or correct their addresses")


def _options(model: Model) -> RemoteOptions:
    assert isinstance(model.engine_options, RemoteOptions)
    return model.engine_options


def _trusting(model: Model, file: Path) -> dict[str, Any]:
    """Return the environment, and the file, by which all of a router trusts what `--ca-cert-paths` names.

    sglang-router 0.3.2 asks with its own by these alone: its checks, and its first look at a server, go by the host's
    authorities, which OpenSSL finds by SSL_CERT_FILE.
    """
    args = model.router.args if model.router is not None else ()
    named = [word for words in _values_of("--ca-cert-paths", args) for word in words]
    if not named or "SSL_CERT_FILE" in model.env:
        return {}
    paths = [os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile, *named]
    texts = []
    for path in filter(None, paths):
        with suppress(OSError):  # the router itself tells of one that it cannot read
            texts.append(Path(path).read_text(errors="replace"))
    return {"env": {"SSL_CERT_FILE": str(file)}, "files": {file: "\n".join(texts)}}


def _values_of(flag: str, args: Sequence[str]) -> Iterator[list[str]]:
    """Yield the values of a flag, each time that it stands there."""
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == flag:
            yield [value] if equals else list(takewhile(lambda each: not each.startswith("--"), args[place + 1 :]))


def _servers(half: tuple[str, ...] | HalfOptions) -> tuple[str, ...]:
    return half if isinstance(half, tuple) else ()


# What sglang-router 0.3.2 writes where it cannot ask Kubernetes for pods: the line from its beginning, and why.
_NO_CLUSTER = re.compile(
    r"^([^\n]{0,400}(?:Error in Kubernetes watcher|Failed to start service discovery): ([^\n]{1,200}))", re.MULTILINE
)

#: What the router calls a pod by the selector that found it.
_KINDS = {"--selector": "regular", "--prefill-selector": "prefill", "--decode-selector": "decode"}


def _no_pod(discovery: PodDiscovery, said: str, lacking: tuple[str, ...]) -> Diagnosis:
    """Return why the router has no pod to pass requests to; `said`: the end of its log."""
    if errors := _NO_CLUSTER.findall(said):
        message = f"its router found no pod that answers, as it cannot watch pods: {errors[-1][1].strip()}"
        remedy = "correct KUBECONFIG, or what muxd's service account may do: get, list and watch pods"
        return Diagnosis(RemoteSilent.code, message, remedy)
    return Diagnosis(
        RemoteSilent.code, _lacking_text(discovery, lacking), "compare discovery with the labels of the pods"
    )


def _lacking_text(discovery: PodDiscovery, lacking: tuple[str, ...]) -> str:
    """Return for which selectors, by their flags, no pod was found; none of them: for any."""
    said = {flag: ",".join(labels) for flag, labels in _selectors(discovery)}
    wanted = " or ".join(said[flag] for flag in lacking or said)
    where = f"namespace {discovery.namespace}" if discovery.namespace else "any namespace"
    return f"its router found no pod with {wanted} in {where} that is Ready and answers at port {discovery.port}"


#: How a router sees that external servers live: seldom enough for a provider that counts requests.
_EXTERNAL = ("--health-check-endpoint", "/v1/models", "--health-check-interval-secs", "10")


#: Where each half has others: after one error a server gets no requests for two seconds.  The router's own check takes
#: three to find a dead one; until then half of all requests meet it, some twice, and such a one is not tried again.
_ONE_OF_SEVERAL = ("--cb-failure-threshold", "1")


def _flags(options: RemoteOptions) -> Iterator[str]:
    """Yield the flags by which the router is told of prefill and decode, finds pods, or checks external servers."""
    if options.external:
        yield from _EXTERNAL
    if min(len(_servers(options.prefill)), len(_servers(options.decode))) > 1:
        yield from _ONE_OF_SEVERAL
    for url in _servers(options.prefill):
        yield from ("--prefill", *url.split(" "))
    for url in _servers(options.decode):
        yield from ("--decode", url)
    found = options.discovery
    if options.prefill or (found is not None and found.prefill_selector):
        yield "--pd-disaggregation"
    if found is None:
        return
    yield from ("--service-discovery", "--service-discovery-port", str(found.port))
    if found.namespace:
        yield from ("--service-discovery-namespace", found.namespace)
    for flag, labels in _selectors(found):
        yield from (flag, *labels)


def _selectors(discovery: PodDiscovery) -> Iterator[tuple[str, list[str]]]:
    """Yield the flags that select pods, each with its labels as name=value."""
    for flag, labels in (
        ("--selector", discovery.selector),
        ("--prefill-selector", discovery.prefill_selector),
        ("--decode-selector", discovery.decode_selector),
    ):
        if labels:
            yield flag, [f"{name}={value}" for name, value in labels.items()]
