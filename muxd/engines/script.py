"""SGLang as a launch script starts it: the script decides how, muxd does the rest.

It gets its environment and nothing else: no flag, and no admin key but one of its own.
"""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from muxd.config import Model
from muxd.config.command_lines import Command, CommandLine, LookUp, NotKnown, flag, is_server, server_at, sleep_level
from muxd.config.devices import ORDER, Devices
from muxd.config.schema import Script
from muxd.errors import EngineTooOld
from muxd.launchers.observed_scripts import ObservedServer
from muxd.shim.processes import ANY_PORT, descendants, look_up, process_table
from muxd.threads import in_thread

from .diagnosis import Diagnosis
from .engine import LaunchContext, LaunchSpec, ServerKeys
from .engine_client import EngineCallFailed, EngineClient
from .sglang.engine import ENVIRONMENT, SGLang

Told = TypeVar("Told")


class LaunchedByScript(SGLang):
    """`pid` is the script's shell, or the server where the script ends with `exec`."""

    def launch(self, model: Model, plan: LaunchContext) -> LaunchSpec:
        script = model.script
        assert script is not None
        return LaunchSpec(
            argv=script.argv,
            env={**ENVIRONMENT, ORDER: "PCI_BUS_ID", **script.env, "TMPDIR": str(plan.tmpdir)},
            # With a real SGLang 0.5.23 below bash, without exec: SIGINT to bash alone is not heard before the server
            # ends, SIGTERM ends bash alone; SIGINT to both makes the server die of KeyboardInterrupt and, where bash
            # waits for a job, ends bash first.  SIGINT to the process that listens ends it cleanly in 0.5 s, and then
            # the script, in each of these.
            stop_signal=signal.SIGINT,
            stop_port=plan.port or ANY_PORT,
            keys=ServerKeys("", ""),
        )

    async def unlock(self, link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
        """Take the keys that the script gave its server, or none, from the command line of the process."""
        for process in processes:
            api, admin = (_text(flag(process.words, (name,))) for name in ("--api-key", "--admin-api-key"))
            if api or admin:
                link.use(admin or api, api)
                break
        try:
            await link.ask("/v1/loads")
        except EngineCallFailed as error:
            return error.cause
        return None

    async def see(self, link: EngineClient | None, port: int, processes: Sequence[Command]) -> ObservedServer | None:
        """Take the server's own answers first, then the command line of the process that listens, or of its starter."""
        servers = [process for process in processes if server_at(process.words) is not None]
        process = next(iter([*(s for s in servers if s.listens), *servers, *processes]), None)
        line = CommandLine(process.words if process is not None else [], process.environ if process is not None else {})
        info = await _server_info(link) if link is not None else {}
        if info is None and not servers:
            return None
        look_up = partial(_looked_up, info or {}, line)
        return ObservedServer(
            port=port or _known(line.port) or 0,
            model=_known(line.model) or _text((info or {}).get("model_path")),
            served=(await _served_name(link) if link is not None else "")
            or _known(lambda: look_up(("--served-model-name",)))
            or "",
            gpus=await _gpus(line, look_up)
            if process is not None and (process.listens or is_server(process.words))
            else (),
            sleep_level=_known(lambda: sleep_level(look_up)) or 3,
            is_embedding=_known(lambda: look_up(("--is-embedding",))) is not None,
            asks_key=bool(_known(lambda: look_up(("--api-key",)))),
        )

    async def weights_of(self, link: EngineClient, model: Model) -> str:
        """Return the path of the weights as the server tells it: the name that clients use may be any."""
        path = _path_in(await link.ask("/model_info"))
        if path is None:
            raise EngineCallFailed("GET /model_info: no model_path in the answer")
        return path

    def processes_of(self, pid: int) -> list[int]:
        """Return the script's processes: it may have put its server into another session, or left it to the shim."""
        shell = look_up(pid)
        session = {process.pid for process in process_table().values() if process.session == pid}
        # Without its shim it has muxd for a parent, or init: what is below these is not its own.
        has_shim = shell is not None and shell.ppid not in (1, os.getpid())
        below = descendants(shell.ppid) if shell is not None and has_shim else []
        return sorted(session | {process.pid for process in below})


def changed(script: Script) -> str:
    """Return the file whose text is another now than when it was read; "" where there is none, or it is gone."""
    for path, digest in script.digests.items():
        with suppress(OSError):
            if os.path.isfile(path) and sha256(Path(path).read_bytes()).hexdigest() != digest:
                return path
    return ""


async def _server_info(link: EngineClient) -> dict[str, Any] | None:
    """Ask what SGLang tells of itself: nothing where it does not tell muxd; None where the server is no SGLang."""
    for path in ("/server_info", "/get_server_info"):  # the second before about 0.5.5
        try:
            info = await link.ask(path)
            return info if isinstance(info, dict) and "model_path" in info else None
        except EngineCallFailed as error:
            if error.cause is None or error.cause.code != EngineTooOld.code:  # that it knows no such route
                return {}
    return None


async def _served_name(link: EngineClient) -> str:
    try:
        (first, *_) = (await link.ask("/v1/models"))["data"]
        return _text(first["id"])
    except (EngineCallFailed, TypeError, KeyError, ValueError):
        return ""


def _looked_up(info: dict[str, Any], line: CommandLine, names: Sequence[str]) -> str | None:
    """Return a flag's value as the server understood it, else as its command line has it; raise NotKnown."""
    for key in (name.lstrip("-").replace("-", "_") for name in names):
        if isinstance(value := info.get(key), bool):
            return "" if value else None
        if value is not None:
            return str(value)
    try:
        return line.look_up(names)
    except NotKnown:
        if info:  # this SGLang knows no such flag
            return None
        raise


async def _gpus(line: CommandLine, look_up: LookUp) -> tuple[int, ...]:
    """Return the GPUs by number; none where they cannot be told."""
    try:
        return await in_thread(partial(Devices({}).numbers, line.gpus(look_up)))
    except (NotKnown, ValueError):
        return ()


def _known(ask: Callable[[], Told | None]) -> Told | None:
    try:
        return ask()
    except NotKnown:
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _path_in(answer: Any) -> str | None:
    path = answer.get("model_path") if isinstance(answer, dict) else None
    return path if isinstance(path, str) and path else None
