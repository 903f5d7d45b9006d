"""`muxctl status [NAME]`: what every model is doing, or everything about one."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.connection import ask, model_target
from muxctl.exits import Exit
from muxctl.places import find_socket
from muxctl.tables import duration, gibibytes, plain, table

COLUMNS = ("MODEL", "STATE", "SINCE", "GPU", "IN-FLIGHT", "WAITING", "RESTARTS", "NOTE")
_NUMBERS = (2, 4, 5, 6)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or what clients call it")
    parser.epilog = "Exit codes with NAME: 0 ready, 3 known but not ready, 4 no such model."


def run(options: Namespace) -> int:
    path = find_socket(options.socket)
    if options.name is None:
        status = ask(path, "GET", "/v1/status")
        _show(status, overview, as_json=options.json)
        return Exit.OK
    model = ask(path, "GET", model_target(options.name))
    _show(model, detail, as_json=options.json)
    return Exit.OK if model["state"] == "ready" else Exit.NOT_READY


def _show(value: dict[str, Any], lines: Any, *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(value, indent=2))
    elif sys.stdout.isatty():
        from muxctl.colour import show

        show(lines(value))
    else:
        print("\n".join(lines(value)))


def overview(status: dict[str, Any]) -> list[str]:
    """The lines of `muxctl status`."""
    lines = [_daemon(status)]
    if status["simulated"]:
        lines.append("simulated: pretend models on pretend GPUs")
    if switch := status["switch"]:
        lines.append(_switch(switch))
    lines += [_gpu(gpu) for gpu in status["gpus"]]
    return [*lines, "", *table([COLUMNS, *map(_row, status["models"])], right=_NUMBERS)]


def _daemon(status: dict[str, Any]) -> str:
    proxy = status["proxy"]
    up = duration(status["uptime_s"])
    return f"muxd {status['version']}, pid {status['pid']}, up {up}; proxy on {proxy['listen']} ({proxy['state']})"


def _switch(switch: dict[str, Any]) -> str:
    left = "" if switch["eta_s"] is None else f", ready in about {duration(switch['eta_s'])}"
    source = " and ".join(switch["from"]) or "nothing"
    phase = str(switch["phase"]).replace("_", " ")
    return f"switching {source} -> {switch['to']}: {phase}, {duration(switch['elapsed_s'])} so far{left}"


def _gpu(gpu: dict[str, Any]) -> str:
    used = "?" if gpu["used"] is None else gibibytes(gpu["used"])
    return f"GPU {gpu['index']}: {plain(gpu['name'])}, {used} of {gibibytes(gpu['total'])} GiB used"


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["name"],
        model["state"],
        duration(model["since_s"]),
        ",".join(map(str, model["gpus"])) or "-",
        str(model["in_flight"]),
        str(model["waiting"]),
        str(model["restarts"]),
        note(model),
    )


def note(model: dict[str, Any]) -> str:
    """What else is worth knowing at a glance; empty when all is well."""
    parts = []
    if model["eta_s"] is not None and model["state"] != "ready":
        parts.append(f"ready in about {duration(model['eta_s'])}")
    if model["retry_in_s"] is not None:
        parts.append(f"tries again in {duration(model['retry_in_s'])}")
    if model["waiting"] and model["oldest_wait_s"]:
        parts.append(f"oldest waits {duration(model['oldest_wait_s'])}")
    if model["state"] == "asleep":
        parts.append(f"sleep level {model['sleep_level']}")
    if model["reason"]:
        parts.append(plain(model["reason"]))
    elif model["last_exit"]:
        parts.append(f"{plain(model['last_exit']['reason'])} {duration(model['last_exit']['when_s'])} ago")
    if model["dropped_log_bytes"]:
        parts.append(f"{model['dropped_log_bytes']} bytes of its log were lost")
    return "; ".join(parts)


def detail(model: dict[str, Any]) -> list[str]:
    """The lines of `muxctl status NAME`."""
    facts = [
        ("model", model["name"]),
        ("state", f"{model['state']} for {duration(model['since_s'])}"),
        ("note", note(model)),
        ("served names", ", ".join(map(plain, model["served_names"]))),
        ("engine", f"{model['engine']}, sleep level {model['sleep_level']}"),
        ("GPUs", ", ".join(map(str, model["gpus"])) or "none"),
        ("worker", _worker(model)),
        ("requests", f"{model['in_flight']} in flight, {model['waiting']} waiting; leases held: {model['leases']}"),
        ("restarts", str(model["restarts"])),
    ]
    lines = table([(f"{name}:", text) for name, text in facts if text])
    if (last := model["last_exit"]) and last["log_tail"]:
        lines += ["", f"The end of its log, {duration(last['when_s'])} ago:"]
        lines += [f"  | {plain(line)}" for line in last["log_tail"]]
    return lines


def _worker(model: dict[str, Any]) -> str:
    if not model["pid"]:
        return ""
    where = f" at {model['url']}" if model["url"] else ""
    return f"pid {model['pid']}{where}, generation {model['generation']}"
