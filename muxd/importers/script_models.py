"""A model whose server a launch script starts: what its table says, completed by what the script says plainly.

What the table says itself comes first, then the script, then `[defaults]`; what neither says is seen at the process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from muxd.config.devices import ORDER, VARIABLE, Devices
from muxd.config.model_schema import DeclaredServer, Script
from muxd.config.problems import Problems
from muxd.config.readers import ANY_GPUS, Base
from muxd.config.sources import Source

from .bash_syntax import Place
from .scripts import LaunchScript, read_script


def follow_script(
    name: str,
    own: dict[str, Any],
    defaults: Mapping[str, Any],
    base: Base,
    environ: Mapping[str, str],
    devices: Devices,
    problems: Problems,
) -> dict[str, Any]:
    """Complete the table `own` with what its script says; what is wrong goes to `problems`, with file and line."""
    own = {key: value for key, value in own.items() if (key, value) != ("port", 0)}
    named: tuple[str, ...] = own.get("gpus", defaults.get("gpus", ()))
    if named[:1] and named[0].startswith(ANY_GPUS):
        named = ()
        if "gpus" in own:
            del own["gpus"]
            text = "any GPU is chosen for a server that muxd starts; name those of the script, or leave this out"
            problems.add(("models", name, "gpus"), text)
    given = {ORDER: "PCI_BUS_ID", VARIABLE: ",".join(named)} if named else {}
    given |= {"PORT": str(own["port"])} if "port" in own else {}
    cwd: Path = own.get("cwd") or defaults.get("cwd") or base.directory
    env = {**given, **defaults.get("env", {}), **own.get("env", {})}
    path, args = own["script"]
    shown = shown_script(path)
    script = read_script(path, shown, {**environ, ORDER: "PCI_BUS_ID", **env}, cwd, args)
    _blame(name, own, script, problems)
    _compare(name, own, script, problems)
    said = DeclaredServer(
        names=own.get("served_names", script.names),
        names_by="table" if "served_names" in own else script.names_by,
        names_from=str(script.named or shown),
        port=own.get("port", script.port),
        port_from="its table" if "port" in own else str(script.ported or shown),
        gpus=_ids(named, devices),
        every=devices.every(),
        there=devices.there() if base.host else (),
        sleep_level=own.get("sleep_level", script.sleep_level or 3),
        level_by_table="sleep_level" in own,
        args=script.telling_flags,
    )
    remarks = [*script.remarks]
    if script.computed is not None and "served_names" not in own:
        text = f"does not say MODEL_NAME plainly, and clients call the model {' or '.join(script.names or (name,))}"
        remarks.append(f"{script.computed} {text}; write MODEL_NAME plainly, or served_names in its table")
    begun = json.dumps([sorted(script.digests.items()), args, sorted(env.items()), environ.get(VARIABLE)])
    digest = sha256(begun.encode()).hexdigest()
    about = Script(
        script.argv,
        script.digests,
        digest,
        str(script.launch or ""),
        str(script.launch) if script.asks_key else "",
        script.program,
        given,
        said,
        remarks=tuple(remarks),
    )
    settled = {"served_names": said.names, "port": said.port, "sleep_level": said.sleep_level, "args": said.args}
    completed = {"engine": "sglang", "model_path": "", "gpus": said.gpus or said.every, "cwd": cwd, **settled, **own}
    return {**completed, "script": about}


def _ids(names: tuple[str, ...], devices: Devices) -> tuple[str, ...]:
    """Return GPUs by id; none for names that nobody knows, which the reader of the table reports."""
    try:
        return devices.ids(names)
    except ValueError:
        return ()


def _blame(name: str, own: Mapping[str, Any], script: LaunchScript, problems: Problems) -> None:
    """Blame the script's lines for what the script said, and report its problems."""
    places = {"port": script.ported, "served_names": script.named}
    said: dict[tuple[str, ...], Place] = {
        (key,): place for key, place in places.items() if place is not None and key not in own
    }
    for source in blamed(name, said):
        problems.also(source)
    for place, problem in script.problems:
        (source,) = blamed(name, {("script",): place})
        problems.add(("models", name, "script"), problem, source)


def _compare(name: str, own: Mapping[str, Any], script: LaunchScript, problems: Problems) -> None:
    """Report where the table contradicts what the script says plainly."""
    if script.port and own.get("port", script.port) != script.port:
        there = f"the script's server listens on {script.port} ({script.ported})"
        text = f"{there}; write the same, or PORT=${{PORT:-{script.port}}} there"
        problems.add(("models", name, "port"), text)
    level = own.get("sleep_level", 3)
    if script.sleep_level is not None and script.sleep_level > (level or 2):  # any memory saver will do for 0
        flags = "--enable-memory-saver" + (" --enable-weights-cpu-backup" if level == 1 else "")
        text = f"{level} needs {flags}, which {script.launch} does not have; add it there, or leave this out"
        problems.add(("models", name, "sleep_level"), text)


def blamed(name: str, said: Mapping[tuple[str, ...], Place]) -> Iterator[Source]:
    """Yield the places of keys of a model that no TOML file has."""
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
    """Return the path relative to this folder, where the script is below it; else in full."""
    try:
        near = os.path.relpath(path)
    except OSError:  # here is a folder that was removed
        return str(path)
    return str(path) if near.startswith("..") else near
