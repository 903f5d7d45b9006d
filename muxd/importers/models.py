"""A model whose server a launch script starts: what its table says, completed by what the script says.

What the table says itself comes first, then the script, then `[defaults]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from muxd.config.devices import ORDER, VARIABLE, Devices
from muxd.config.flags import Parallel
from muxd.config.problems import Problems
from muxd.config.readers import Base
from muxd.config.schema import Script
from muxd.config.sources import Source

from .devices import GpuUse
from .scripts import ELSEWHERE, Fact, LaunchScript, read_script
from .shell.syntax import Place


def follow_script(
    name: str,
    own: dict[str, Any],
    defaults: Mapping[str, Any],
    base: Base,
    environ: Mapping[str, str],
    devices: Devices,
    problems: Problems,
) -> dict[str, Any]:
    """`own` with all that the script settles; what is wrong with it goes to `problems`, with its file and line."""
    return _Table(name, own, defaults, base, environ, devices, problems).completed()


class _Table:
    def __init__(
        self,
        name: str,
        own: dict[str, Any],
        defaults: Mapping[str, Any],
        base: Base,
        environ: Mapping[str, str],
        devices: Devices,
        problems: Problems,
    ) -> None:
        self._name = name
        self._devices = devices
        self._own = {key: value for key, value in own.items() if (key, value) != ("port", 0)}
        self._defaults = defaults
        self._problems = problems
        self._cwd: Path = own.get("cwd") or defaults.get("cwd") or base.directory
        self._set = self._set_for_it()
        env = {**environ, ORDER: "PCI_BUS_ID", **self._set, **defaults.get("env", {}), **own.get("env", {})}
        path, args = own["script"]
        self._shown = shown_script(path)
        self._script = read_script(path, self._shown, env, self._cwd, args)

    def _set_for_it(self) -> dict[str, str]:
        """GPUs and port as the table has them, by the variables that scripts go by."""
        set_for_it: dict[str, str] = {}
        if gpus := self._given_gpus:
            set_for_it |= {ORDER: "PCI_BUS_ID", VARIABLE: ",".join(map(str, gpus))}
        if port := self._own.get("port"):
            set_for_it["PORT"] = str(port)
        return set_for_it

    @property
    def _given_gpus(self) -> tuple[int | str, ...]:
        """What the configuration says; none where it does not."""
        found: tuple[int | str, ...] = self._own.get("gpus", self._defaults.get("gpus", ()))
        return found

    def completed(self) -> dict[str, Any]:
        script, own = self._script, self._own
        gpus, why = (self._given_gpus, "") if self._given_gpus else self._gpus_of_script()
        self._blame()
        self._compare()
        about = {"admin_key": script.admin_key, "api_key": script.api_key, "why_no_gpus": why}
        about |= {"launch": str(script.launch or ""), "program": script.program}
        says = {
            "engine": "sglang",
            "args": script.telling_flags,
            "model_path": "",
            "served_names": tuple(fact.text for fact in script.served_names),
            "port": int(script.port.text) if script.port is not None else 0,
            "gpus": gpus,
            "sleep_level": script.sleep_level,
            "cwd": self._cwd,
        }
        read = Script(script.argv, script.digests, env=self._set, remarks=script.remarks, **about)
        return {**says, **own, "script": read}

    def _gpus_of_script(self) -> tuple[tuple[int, ...], str]:
        """All that any of its commands may use; none, and why, where that cannot be told."""
        found: set[int] = set() if self._script.gpu_uses else {0}  # it cannot be read at all, and that is told
        for use in self._script.gpu_uses:
            try:
                found.update(self._used(use))
            except ValueError as error:
                (source,) = blamed(self._name, {("gpus",): use.place})
                self._problems.also(source)
                return (), f"its GPUs: {error}; {ELSEWHERE.format('gpus')}"
        return tuple(sorted(found)), ""

    def _used(self, use: GpuUse) -> tuple[int, ...]:
        """Raises ValueError."""
        if use.why:
            raise ValueError(use.why)
        if use.needs is None:
            return self._devices.numbers(use.visible or ())
        if use.visible is None:
            return tuple(range(use.needs.seen)[use.needs.chosen])
        if not use.visible:  # no GPU: to be on the safe side it takes turns as others do
            return self._devices.numbers(self._devices.default(Parallel()))
        if use.needs.seen > len(use.visible):
            raise ValueError(f"its server needs {use.needs}, and sees {VARIABLE}={','.join(use.visible)}")
        return self._devices.numbers(use.visible if use.given else use.visible[use.needs.chosen])

    # What is wrong

    def _blame(self) -> None:
        """The script's lines for what it said, and its problems but those that the table settles."""
        script = self._script
        facts: dict[str, Fact | None] = {"port": script.port, "served_names": next(iter(script.served_names), None)}
        said: dict[tuple[str, ...], Place] = {
            (key,): fact.place for key, fact in facts.items() if fact is not None and key not in self._own
        }
        for source in blamed(self._name, said):
            self._problems.also(source)
        settled = self._own.keys() - {"script"}
        for problem in script.problems:
            if problem.key[0] not in settled:
                (source,) = blamed(self._name, {problem.key: problem.place})
                self._problems.add(("models", self._name, *problem.key), problem.text, source)

    def _compare(self) -> None:
        """The table and the script must not contradict each other."""
        script, own = self._script, self._own
        if not script.problems:
            self._compare_port(script, own)
            self._compare_gpus(script)
            level = own.get("sleep_level", 3)
            if not script.can_sleep_at(level):
                flags = "--enable-memory-saver" + (" --enable-weights-cpu-backup" if level == 1 else "")
                where = script.launch or Place(self._shown, 1)
                text = f"{level} needs {flags}, which {where} does not have; add it there, or leave this out"
                self._problems.add(("models", self._name, "sleep_level"), text)

    def _compare_port(self, script: LaunchScript, own: Mapping[str, Any]) -> None:
        if script.port is not None and own.get("port", int(script.port.text)) != int(script.port.text):
            there = f"the script's server listens on {script.port.text} ({script.port.place})"
            text = f"{there}; write the same, or PORT=${{PORT:-{script.port.text}}} there"
            self._problems.add(("models", self._name, "port"), text)

    def _compare_gpus(self, script: LaunchScript) -> None:
        given = self._given_gpus
        if not given:
            return
        key = ("models", self._name, "gpus") if "gpus" in self._own else ("defaults", "gpus")
        for use in script.gpu_uses:
            if text := self._contradiction(use, given):
                self._problems.add(key, text)

    def _contradiction(self, use: GpuUse, given: tuple[int | str, ...]) -> str:
        """What cannot be told is for the table to say."""
        if use.why:
            return ""
        needs = use.needs or Parallel()
        if needs.said and needs.seen > len(use.visible or given) and not use.contained:
            return f"the server of {use.place} needs {needs}, and {len(given)} are named here; name as many"
        try:
            used, named = set(self._used(use)), set(self._devices.numbers(given))
        except ValueError:
            return ""
        if used == named or (used <= named and not use.given):
            return ""
        numbers = ",".join(map(str, sorted(used)))
        if use.contained:
            return f"the container of {use.place} is given GPU {numbers} itself; name the same GPUs, or --gpus there"
        return f"{self._shown} sets {VARIABLE}={numbers} itself; name the same GPUs, or leave this out"


def blamed(name: str, said: Mapping[tuple[str, ...], Place]) -> Iterator[Source]:
    """Where keys of a model stand that no TOML file has."""
    for file in dict.fromkeys(place.file for place in said.values()):
        table: dict[str, Any] = {}
        lines = {}
        for key, place in said.items():
            if place.file == file:
                _put(table, key)
                if place.line:
                    lines["models", name, *key] = place.line
        yield Source(Path(file), {"models": {name: table}}, lines)


def _put(table: dict[str, Any], key: tuple[str, ...]) -> None:
    for part in key:
        table = table.setdefault(part, {})


def shown_script(path: Path) -> str:
    """As it is found from here, where it is below; else in full."""
    try:
        near = os.path.relpath(path)
    except OSError:  # here is a folder that was removed
        return str(path)
    return str(path) if near.startswith("..") else near
