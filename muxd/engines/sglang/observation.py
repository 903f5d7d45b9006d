"""What an SGLang server is that a launch script has started: by its command line, its environment and its answers."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from muxd.config.command_lines import (
    DEFAULT_PORT,
    Command,
    CommandLine,
    LookUp,
    NotKnown,
    is_server,
    server_at,
    sleep_level,
)
from muxd.config.devices import Devices
from muxd.config.flags import flag, flag_of
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.observed_server import ObservedServer
from muxd.errors import EngineTooOld
from muxd.threads import in_thread

#: The port's line in the YAML file that --config names, of which LONGEST_CONFIG bytes are read.
_PORT = re.compile(r"^port\s*:\s*[\"']?([0-9]+)", re.MULTILINE)
LONGEST_CONFIG = 1 << 16

#: Characters of a model's name or path, at most.
LONGEST_NAME = 1024

Told = TypeVar("Told")


async def find_keys(link: EngineClient, processes: Sequence[Command]) -> Diagnosis | None:
    """Take the keys that a launch script gave its server, or none, from the command line of the process.

    Return why muxd cannot control a server whose keys are not found.
    """
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


async def observe(link: EngineClient | None, port: int, processes: Sequence[Command]) -> ObservedServer | None:
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
        model=_text(_known(line.model)) or _text((info or {}).get("model_path")),
        served=(await _served_name(link) if link is not None else "")
        or _text(_known(lambda: look_up(("--served-model-name",)))),
        gpus=await _gpus(line, look_up)
        if process is not None and (process.listens or is_server(process.words))
        else (),
        sleep_level=_known(lambda: sleep_level(look_up)) or 3,
        is_embedding=_known(lambda: look_up(("--is-embedding",))) is not None,
        asks_key=bool(_known(lambda: look_up(("--api-key",)))),
    )


async def weights_path(link: EngineClient) -> str:
    """Return the path of the weights as the server tells it: the name that clients use may be any."""
    answer = await link.ask("/model_info")
    path = answer.get("model_path") if isinstance(answer, dict) else None
    if not isinstance(path, str) or not path:
        raise EngineCallFailed("GET /model_info: no model_path in the answer")
    return path


def servers_among(commands: Iterable[Command]) -> list[Command]:
    """Return the servers among these processes, each once.

    A server that another server has started is a part of that one, and so are its further nodes on this host.  Parts
    that outlive a server that crashed have its command line, and are no servers of their own either.
    """
    servers = {command.pid: command for command in commands if is_server(command.words)}
    heads = [c for c in servers.values() if c.parent not in servers and flag(c.words, ("--node-rank",)) in (None, "0")]
    return list({tuple(head.words): head for head in reversed(heads)}.values())[::-1]


def port_told(process: Command) -> int | None:
    """Return the port that a server was told by its command line or its --config file; None: cannot be told."""
    look_up = flag_of(process.words)
    if look_up(("--port",)) is None and (config := look_up(("--config",))):
        text = _port_in_config(Path(f"/proc/{process.pid}/cwd", config))
        return DEFAULT_PORT if text is None else int(text) if text and len(text) < 6 else None
    try:
        return CommandLine(process.words).port()
    except NotKnown:
        return None


def _port_in_config(config: Path) -> str | None:
    """Return the digits of the port in a server's YAML file; None where it names none, "" where it cannot be read."""
    try:
        if not config.is_file():  # to open a pipe would block
            return ""
        with config.open("rb") as file:
            text = file.read(LONGEST_CONFIG).decode(errors="replace")
    except OSError:
        return ""
    found = _PORT.search(text)
    return found[1] if found else None


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


async def _gpus(line: CommandLine, look_up: LookUp) -> tuple[str, ...]:
    """Return the GPUs by id; none where they cannot be told."""
    try:
        return await in_thread(partial(Devices({}).ids, line.gpus(look_up)))
    except (NotKnown, ValueError):
        return ()


def _known(ask: Callable[[], Told | None]) -> Told | None:
    try:
        return ask()
    except NotKnown:
        return None


def _text(value: object) -> str:
    """Return a text that can be a name; "" for anything else: neither a command line nor an answer is trusted."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME else ""
