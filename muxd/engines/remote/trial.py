"""Which servers answer, or which pods are found: tried by `muxd check`, with a router that serves nobody."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from muxd.config.model_schema import Model
from muxd.config.schema import Daemon
from muxd.engines.diagnosis import Evidence
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineClient, open_http
from muxd.ports import HOST, free_port

from .engine import FIRST_LIST, RemoteServers

#: Seconds for the router to answer at all, and then for its servers: it asks a server again a second later.
PATIENCE, FOR_SERVERS = 15.0, FIRST_LIST + 2.0

_POLL = 0.1


def why_not_served(model: Model, daemon: Daemon, environ: Mapping[str, str]) -> str:
    """Return what keeps a model's servers, or some of them, from serving now; "" for nothing, or where none can tell.

    It takes up to PATIENCE + FOR_SERVERS seconds, and about two where all of them answer.
    """
    servers = RemoteServers()
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        apart = {"prometheus_port": str(free_port())}  # the configured one may be that of a router that serves
        context = LaunchContext(free_port(), Path(folder), Path(folder), "", daemon, chosen=apart)
        command = servers.command(model, context)
        for file, text in command.files.items():
            file.write_text(text)
        own = {**environ, **command.env, **model.env}
        router = subprocess.Popen(
            command.argv, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            trio.run(_look, servers, context.port, model, router, Path(log.name))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(router.pid, signal.SIGKILL)
            router.wait()
    return servers.notice


async def _look(servers: RemoteServers, port: int, model: Model, router: "subprocess.Popen[bytes]", log: Path) -> None:
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
