"""Which servers answer, or which pods are found: tried by `muxd check`, with a router that serves nobody."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from muxd.config.model_schema import Model
from muxd.config.schema import Daemon
from muxd.engines.diagnosis import Evidence
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineClient, open_http
from muxd.ports import HOST, free_ports

from .engine import FIRST_LIST, RemoteServers

#: Seconds for the router to answer at all, and then for its servers: it asks a server again a second later.  Two cores
#: take 20 s to start AT_ONCE of them.
PATIENCE, FOR_SERVERS = 40.0, FIRST_LIST + 2.0

#: So many models are tried side by side, each with a router of its own of 60 MB.
AT_ONCE = 16

_POLL = 0.1


def why_not_served(models: Sequence[tuple[Model, Mapping[str, str]]], daemon: Daemon) -> dict[str, str]:
    """Return what keeps each model's servers, or some of them, from serving now, by the models' names.

    It is "" for nothing, or where none can tell.  All models are tried side by side, AT_ONCE at once, each with its
    environment.  It takes up to PATIENCE + FOR_SERVERS seconds, and about two where all of them answer.
    """
    try:
        return trio.run(_try_all, models, daemon)
    except BaseExceptionGroup as errors:
        if errors.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        raise


async def _try_all(models: Sequence[tuple[Model, Mapping[str, str]]], daemon: Daemon) -> dict[str, str]:
    found: dict[str, str] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def try_one(model: Model, environ: Mapping[str, str], ports: Sequence[int]) -> None:
        async with limit:
            found[model.name] = await _try(model, daemon, environ, ports)

    ports = free_ports(2 * len(models))
    async with trio.open_nursery() as nursery:
        for number, (model, environ) in enumerate(models):
            nursery.start_soon(try_one, model, environ, ports[2 * number : 2 * number + 2])
    return found


async def _try(model: Model, daemon: Daemon, environ: Mapping[str, str], ports: Sequence[int]) -> str:
    """Return what keeps one model's servers from serving; its router listens on the two ports."""
    servers = RemoteServers()
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        apart = {"prometheus_port": str(ports[1])}  # the configured one may be that of a router that serves
        context = LaunchContext(ports[0], Path(folder), Path(folder), "", daemon, chosen=apart)
        command = servers.command(model, context)
        for file, text in command.files.items():
            file.write_text(text)
        own = {**environ, **command.env, **model.env}
        router = await trio.lowlevel.open_process(
            command.argv, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            await _look(servers, context.port, model, router, Path(log.name))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(router.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await router.wait()
    return servers.notice


async def _look(servers: RemoteServers, port: int, model: Model, router: trio.Process, log: Path) -> None:
    """Look at the servers until all of them answer, or as many as will."""
    async with open_http() as http:
        link = EngineClient(http, f"http://{HOST}:{port}", "", lambda _: None, call_timeout=5, probe_timeout=5)
        with trio.move_on_after(PATIENCE):
            while router.poll() is None and await link.probe("/liveness") != 200:
                await trio.sleep(_POLL)
        with trio.move_on_after(FOR_SERVERS):
            while router.poll() is None and not (await servers.is_ready(link) and not servers.notice):
                servers.diagnose(Evidence(await trio.Path(log).read_text(errors="replace"), is_alive=True), model)
                await trio.sleep(_POLL)
