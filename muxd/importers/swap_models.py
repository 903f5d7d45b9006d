"""Models of llama-swap: what follows from several of a model's keys together, such as its command, port and GPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from muxd.config.command_lines import NotKnown, container_gpus
from muxd.config.devices import VARIABLE, visible
from muxd.config.lines import KeyPath
from muxd.config.loopback import is_loopback
from muxd.config.readers import Base
from muxd.config.rules import OWNED_ENV
from muxd.config.units import show_duration, shown

from .engine_commands import (
    EngineCommand,
    asks_for_gpus,
    engine_command,
    gpus_by_env,
    gpus_of,
    in_container,
    repeated_flag,
    with_placeholder,
    words_of,
)
from .macros import MACRO
from .owned_flags import why_left_out
from .translations import Conversion

_ANYWHERE = Base(Path("/"), Path("/"), host=False)
_KILL = re.compile(r"kill\s+(?:-s\s+)?-?(?:SIG)?(TERM|INT|QUIT|HUP|USR1|USR2)\s+\$\{PID\}\s*")


def put_models(
    conversion: Conversion, models: Mapping[str, Mapping[str, Any]], written_ports: Mapping[str, int]
) -> None:
    """Put what each model's keys say together; `written_ports` are those that other keys than commands name."""
    ports = [port_of(table.get("proxy")) for table in models.values()]
    for name, table in models.items():
        shares_port = ports.count(port_of(table.get("proxy"))) > 1
        _SwapModel(conversion, name, table, shares_port, written_ports.get(name)).put()
    _put_ladders(conversion, models)


def _put_ladders(conversion: Conversion, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Let each model end after its ttl without a request, or after that of all; a pinned one stays."""
    of_all = conversion.source.table.get("globalTTL")
    for name, table in models.items():
        at: KeyPath = ("models", name, "ttl")
        if (seconds := table.get("ttl")) in (None, -1):
            at, seconds = ("globalTTL",), of_all
        written = conversion.tables["models"].get(conversion.table_names[name], {})
        if type(seconds) is not int or seconds <= 0 or not written:
            continue
        if written.get("pinned"):
            conversion.remark(at, f"no equal for {name}: it is pinned, as its group is persistent, and stays")
        else:
            conversion.put(("models", conversion.table_names[name], "idle"), [f"{show_duration(seconds)} -> 3"], at)


def port_of(proxy: Any) -> int | None:
    """Return the port in the URL of a model's server; None where muxd chooses it, or the URL has none."""
    try:
        return urlsplit(proxy).port if isinstance(proxy, str) and "{port}" not in proxy else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _SwapModel:
    """What follows from several keys of one model together: its command, its port and its GPUs."""

    conversion: Conversion
    name: str
    table: Mapping[str, Any]
    shares_port: bool  # whether another model's server is at the same port, as llama-swap allows
    written_port: int | None  # the number that stands for ${PORT} in other keys than commands

    def put(self) -> None:
        self._say("served_names", self._served_names(), "aliases")
        proxy = self._text("proxy") or "http://127.0.0.1:{port}"
        if self.table.get("cmd") is None:
            self.conversion.wrong(self._at(), "cmd is missing; write the command that starts its server")
            return
        cmd = self._text("cmd")
        if cmd is None and self.table["cmd"] != "":
            return
        try:
            words = words_of(cmd or "")
        except ValueError as error:
            self.conversion.wrong(self._at("cmd"), str(error))
            return
        if (flag := repeated_flag(words)) and not in_container(words):
            self.conversion.wrong(self._at("cmd"), f"says {flag} twice, with what its macros add; take one of them out")
            return
        if self._is_here(proxy):
            self._put_command(words, proxy)

    def _is_here(self, proxy: str) -> bool:
        """Say whether the server's URL is of this host; take the model out where it is not."""
        try:
            address = urlsplit(proxy.replace("{port}", "1"))
            host, port = address.hostname or "", address.port
        except ValueError:
            self.conversion.wrong(self._at("proxy"), f"{shown(proxy)} is no URL; write http://127.0.0.1:${{PORT}}")
            return False
        if not (host == "localhost" or is_loopback(host) or host in ("0.0.0.0", "::")):
            self.conversion.drop_model(self.name)
            what = f"the model is left out: its server is at {host}, and muxd starts none on another host"
            self.conversion.remark(self._at("proxy"), f'{what}; one that runs already is engine = "remote"')
            return False
        if ":" in host:
            what = f"{shown(proxy)}: muxd asks servers at 127.0.0.1"
            self.conversion.wrong(self._at("proxy"), f"{what}; write that, and let the server listen there")
            return False
        if address.scheme != "http":
            self.conversion.wrong(
                self._at("proxy"), f"{shown(proxy)}: muxd speaks plain HTTP to servers; write http://"
            )
            return False
        if address.path.strip("/"):
            self.conversion.remark(self._at("proxy"), f"no equal: the path {address.path} in front of every route")
        if port is None:
            self.conversion.wrong(self._at("proxy"), f"{shown(proxy)} has no port; write http://127.0.0.1:${{PORT}}")
        return port is not None

    def _put_command(self, words: list[str], proxy: str) -> None:
        port = port_of(proxy)
        if port is not None and self.shares_port and (own := with_placeholder(words, port)) is not None:
            words, port = own, None
            self.conversion.remark(self._at("proxy"), "another model has this port, too: muxd chooses one for each")
        if port is None and not any("{port}" in word for word in words):
            if not any(map(MACRO.search, words)):  # a macro that is left is told already
                text = "no ${PORT} is in it, and proxy says no port; write --port ${PORT}, or"
                self.conversion.wrong(self._at("cmd"), f"{text} proxy: http://127.0.0.1:NUMBER")
            return
        self._say("port", port or self.written_port, "proxy")
        words, own_gpus = gpus_by_env(words)
        env = self._environment() | ({VARIABLE: own_gpus} if own_gpus is not None else {})
        prefix = self._put_gpus(words, env)
        self._say("env", env, "env")
        plain = engine_command(words, _ANYWHERE) if self.table.get("cmdStop") is None and not prefix else None
        if plain is not None:
            self._put_engine(plain)
        else:
            self._put_server([*prefix, *words])

    def _put_engine(self, plain: EngineCommand) -> None:
        self._say("engine", plain.engine, "cmd")
        self._say("python", plain.python, "cmd")
        self._say("model_path", plain.model_path, "cmd")
        self._say("args", list(plain.args), "cmd")
        if (asked := self._text("useModelName")) and asked not in (*plain.names, plain.model_path):
            self._say("upstream_name", asked, "useModelName")
        if (check := self._text("checkEndpoint")) and check.strip("/") != "health":
            self.conversion.remark(self._at("checkEndpoint"), f"no equal: muxd asks {plain.engine} at its own /health")
        text = f"muxd runs {plain.engine} itself: it sleeps where llama-swap ends it, see sleep_level"
        self.conversion.remark(self._at("cmd"), text)
        for why in filter(None, map(why_left_out, plain.left_out)):
            self.conversion.remark(self._at("cmd"), why)

    def _put_server(self, words: list[str]) -> None:
        self._say("engine", "openai", "cmd")
        self._say("command", words, "cmd")
        self._say("upstream_name", self._text("useModelName"), "useModelName")
        check = self._text("checkEndpoint")
        if check is not None and check.lower() == "none":
            self.conversion.remark(self._at("checkEndpoint"), "no equal: a server is ready once it answers, here at /")
            check = "/"
        self._say("ready_path", f"/{check.lstrip('/')}" if check else None, "checkEndpoint")
        self._put_stop()

    def _put_stop(self) -> None:
        given = self._raw("cmdStop")
        if isinstance(given, str) and (signal := _KILL.fullmatch(given)):
            self._say("stop_signal", f"SIG{signal[1]}", "cmdStop")
        elif (stop := self._text("cmdStop")) is not None:
            try:
                self._say("stop_command", words_of(stop), "cmdStop")
            except ValueError as error:
                self.conversion.wrong(self._at("cmdStop"), str(error))

    def _environment(self) -> dict[str, str]:
        """Return the variables of `env`, a list of NAME=VALUE."""
        given = self.table.get("env") or []
        if not isinstance(given, list) or not all(isinstance(item, str) and "=" in item for item in given):
            self.conversion.wrong(self._at("env"), "not a list of variables; write - NAME=VALUE below it")
            return {}
        return dict(item.split("=", 1) for item in given)

    def _put_gpus(self, words: list[str], env: dict[str, str]) -> list[str]:
        """Put the GPUs that the server uses, as far as that is said, and take them out of `env`.

        Return what stands before a command that is to see none.
        """
        for name in OWNED_ENV.keys() & env.keys() - {VARIABLE}:
            del env[name]
            self.conversion.remark(self._at("env"), f"{name} is left out: muxd sets it")
        said, key = env.pop(VARIABLE, None), "env" if VARIABLE in str(self.table.get("env")) else "cmd"
        try:
            if said is not None:
                gpus: tuple[str, ...] | None = visible(said)
            else:
                gpus = container_gpus(words[1:]) if in_container(words) else None
                if gpus is None:
                    gpus = tuple(map(str, range(gpus_of(words)))) or None
                if gpus is None and in_container(words) and asks_for_gpus(words):
                    text = "its container sees all GPUs, and its turn is on GPU 0 alone"
                    self.conversion.remark(self._at(key), f"{text}; write gpus, those that it uses")
                elif gpus is None and any(f"{VARIABLE}=" in word for word in words):
                    text = f"{VARIABLE} is said within a command that is not read, and its turn is on GPU 0 alone"
                    self.conversion.remark(self._at(key), f"{text}; write gpus, those that it uses")
        except (ValueError, NotKnown) as error:
            self.conversion.remark(self._at(key), f"its GPUs are not known: {error}; write gpus")
            return []
        if gpus:
            self._say("gpus", [int(gpu) if gpu.isdigit() else gpu for gpu in gpus], key)
        elif gpus is not None and said is not None:
            self.conversion.remark(self._at(key), "it sees no GPU; its turn is on GPU 0 as for others, see gpus")
            return ["env", f"{VARIABLE}={said}"]
        return []

    def _served_names(self) -> list[str]:
        aliases = [alias for alias, model in self.conversion.aliases.items() if model == self.name != alias]
        return [self.name, *aliases] if aliases or self.conversion.table_names[self.name] != self.name else []

    def _raw(self, key: str) -> Any:
        """Return a value as the file has it, with its macros."""
        return self.conversion.original.table["models"][self.name].get(key)

    def _text(self, key: str) -> str | None:
        """Return the text of a key; None where it is not there, or is no text, which is noted."""
        value = self.table.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self.conversion.wrong(self._at(key), f"{shown(value)} is not text; put it in quotes")
            return None
        return value

    def _at(self, *keys: str) -> KeyPath:
        return ("models", self.name, *keys)

    def _say(self, key: str, value: Any, origin: str) -> None:
        """Put a key of the model, unless there is nothing to put."""
        if value not in (None, "", [], {}):
            self.conversion.put(("models", self.conversion.table_names[self.name], key), value, self._at(origin))
