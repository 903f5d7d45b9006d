"""The lines of `muxctl status`: muxd, its GPUs, and a table of every model, for a pipe or for a terminal's size."""

from collections.abc import Sequence
from typing import Any

from muxctl.display.tables import about, cut, duration, gibibytes, padded, plain, table, width_of
from muxctl.times import stamp

COLUMNS = (
    "MODEL",
    "STATE",
    "SINCE",
    "GPU",
    "GIB",
    "IN-FLIGHT",
    "WAITING",
    "REQ/MIN",
    "TOK/S",
    "USED",
    "RESTARTS",
    "NOTE",
)
_FEWER = ("MODEL", "STATE", "SINCE", "GPU", "IN-FLIGHT", "WAITING", "RESTARTS")
_NO_NUMBERS = ("MODEL", "STATE", "GPU", "NOTE")

#: Columns of a narrow terminal, and the names that some have there.
_SHORT = {"IN-FLIGHT": "BUSY", "WAITING": "WAIT", "REQ/MIN": "R/MIN", "RESTARTS": "RST"}

_NOTE = 48  # columns; with fewer beside the table, a note gets a line of its own
_INDENT = "    "
_LEAVING = ("draining", "falling_asleep", "stopping", "unresponsive")
_OLD = 3600  # seconds after which an exit is no longer worth a note

Model = dict[str, Any]


def overview(status: dict[str, Any], width: int | None = None, height: int | None = None) -> list[str]:
    """Return the lines of the overview, for a terminal of `width` and `height`, or without limits for a pipe.

    Within `width`, a note that does not fit into the table gets a line of its own, and is cut if that is too long.
    Within `height`, models at rest are left off before others, and counted.
    """
    head, models = [*_head(status), ""], status["models"]
    lines = [*head, *_table(models, width)]
    if height is None or len(lines) <= height:
        return lines
    left_off = 0
    while (over := len(lines) - (height - 1)) > 0 and any(map(_rests, models)):
        models = _without_last(models, -(-over // 2))  # each model has one or two lines
        left_off = len(status["models"]) - len(models)
        lines = [*head, *_table(models, width)]
    if left_off:
        lines.append(f"... and {left_off} more at rest")
    if len(lines) > height:
        return [*lines[: height - 1], f"... and {len(lines) - height + 1} more lines"]
    return lines


def _without_last(models: list[Model], count: int) -> list[Model]:
    """Return the models without the last `count` of those at rest."""
    at_rest = [place for place, model in enumerate(models) if _rests(model)][-count:]
    return [model for place, model in enumerate(models) if place not in at_rest]


def _rests(model: Model) -> bool:
    return model["state"] in ("asleep", "unloaded", "stopped") and not model["waiting"]


def _head(status: dict[str, Any]) -> list[str]:
    lines = [_daemon(status), *_door(status.get("door"), status["proxy"]["listen"])]
    if reason := status["proxy"].get("reason"):
        lines.append(f"NO PROXY: {plain(reason)}; muxd tries again by itself")
    if status["simulated"]:
        lines.append("simulated: pretend models on pretend GPUs")
    if status.get("config_written"):
        lines.append(
            f"{plain(status['config'])} was written since muxd read it; muxctl reload --dry-run says what changes"
        )
    if failed := status.get("reload_failed"):
        reason = plain(failed["reason"].partition("\n")[0].removesuffix(":"))
        lines.append(f"the last reload, at {stamp(failed['time'])}, failed: {reason}; what ran before runs on")
    if switch := status["switch"]:
        lines.append(_switch(switch))
    lines += map(_gpu, status["gpus"])
    lines += map(_loan, status.get("loans", []))
    if not status["gpus"] and any(model["gpus"] for model in status["models"]):
        lines.append("GPUs: none can be seen (no NVIDIA driver, or no NVML), so no memory is measured; see muxd's log")
    if (memory := status.get("host_memory")) is not None:
        whose = (("weights", "the weights of models that sleep at level 1"), ("standby", "processes in standby"))
        for key, by in whose:
            if taken := memory.get(key):
                sizes = f"{gibibytes(taken)} of {gibibytes(memory['for_weights'])} GiB"
                lines.append(f"host RAM: {sizes} taken by {by}")
    tellers = [*status["models"], {"name": "proxy", **status["proxy"]}]
    return lines + _lost_logs(tellers, status.get("log_dir")) + _proxys_log(status["proxy"])


def _daemon(status: dict[str, Any]) -> str:
    proxy = status["proxy"]
    up = duration(status["uptime_s"])
    return f"muxd {status['version']}, pid {status['pid']}, up {up}; proxy on {proxy['listen']} ({_running(proxy)})"


def _running(proxy: dict[str, Any]) -> str:
    """Return the proxy's state and, of several processes, how many run; an older muxd sends none."""
    processes = proxy.get("processes", [])
    if len(processes) < 2:
        return str(proxy["state"])
    running = sum(process["state"] == "running" for process in processes)
    count = f"{running} of {len(processes)}" if running < len(processes) else f"{running}"
    return f"{proxy['state']}, {count} processes"


def _door(door: dict[str, Any] | None, listen: str) -> list[str]:
    """Return the line that says who may use the proxy; none from an older muxd, which does not send it."""
    if door is None:
        return []
    keys, others = door["keys"], door["keys_not_working"]
    if door["open_to"] != "key_holders":
        who = "on this host" if door["open_to"] == "host" else f"who reaches {listen}"
        return [f"door: open to everybody {who} (no API key)"]
    more = f"; {others} more expired or revoked" if others else ""
    if keys:
        return [f"door: {keys} API key{'s' if keys != 1 else ''}{more}"]
    return [f"door: shut, no API key works ({others} expired or revoked); muxctl keys add NAME makes one"]


def _switch(switch: dict[str, Any]) -> str:
    left = "" if switch["eta_s"] is None else f", ready in {about(switch['eta_s'])}"
    source = " and ".join(switch["from"]) or "nothing"
    phase = str(switch["phase"]).replace("_", " ")
    return f"switching {source} -> {switch['to']}: {phase}, {duration(switch['elapsed_s'])} so far{left}"


def _gpu(gpu: dict[str, Any]) -> str:
    used = "?" if gpu["used"] is None else gibibytes(gpu["used"])
    line = f"GPU {gpu['index']}: {plain(gpu['name'])}, {used} of {gibibytes(gpu['total'])} GiB used{_health(gpu)}"
    if (strangers := gpu.get("strangers")) is not None:
        line += f"; {plain(strangers['text'])}"
    room = gpu.get("for_models", gpu["total"])
    return line if room == gpu["total"] else f"{line}; {gibibytes(room)} GiB for models"


def _health(gpu: dict[str, Any]) -> str:
    """Return how busy, hot and hungry a GPU is, as far as that is told."""
    told = (("utilization", "{} % busy"), ("temperature_c", "{} C"), ("power_w", "{:.0f} W"))
    return "".join(f", {text.format(gpu[key])}" for key, text in told if gpu.get(key) is not None)


def _loan(loan: dict[str, Any]) -> str:
    """Return the line of a loan: of which GPUs, to whom, and for how long yet."""
    gpus = " and ".join(map(str, loan["gpus"]))
    who = f" by {plain(loan['by'])}" if loan["by"] else ""
    what = f"GPU {gpus} is lent{who}" if loan["kind"] == "lend" else f"all GPUs are given up{who} (muxctl yield)"
    if loan["pid"] is not None:
        what += f" to process group {loan['pid']}"
    if not loan["granted"]:
        return f"{what}: models are leaving"
    left = f", for {duration(loan['left_s'])} yet" if loan["left_s"] is not None else ""
    return what + (", recalled" if loan["recalled"] else left)


def _lost_logs(tellers: list[dict[str, Any]], folder: str | None) -> list[str]:
    """Return a line for each error by which the disk refuses logs, with the names of those logs.

    An older muxd sends neither the error nor whether the loss goes on.
    """
    why: dict[str, list[str]] = {}
    for teller in tellers:
        if teller.get("dropped_log_bytes") and teller.get("dropped_log_now", True):
            why.setdefault(plain(teller.get("dropped_log_reason") or "unknown"), []).append(plain(teller["name"]))
    remedy = f"; see to the disk of {plain(folder)}" if folder else ""
    return [f"LOGS LOST in part, of {_few(names)}: {reason}{remedy}" for reason, names in why.items()]


def _proxys_log(proxy: dict[str, Any]) -> list[str]:
    """Return a line on past losses of the proxy's log; those of a model are in its row."""
    if not proxy.get("dropped_log_bytes") or proxy.get("dropped_log_now", True):
        return []
    why = plain(proxy.get("dropped_log_reason") or "unknown")
    return [f"proxy: {proxy['dropped_log_bytes']} bytes of its log were lost{lost_ago(proxy)} ({why})"]


def lost_ago(teller: dict[str, Any]) -> str:
    """Return when the last of a log's bytes were lost, as ", last 2m ago"; "" from an older muxd."""
    ago = teller.get("dropped_log_ago_s")
    return f", last {duration(ago)} ago" if ago is not None else ""


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _table(models: list[Model], width: int | None) -> list[str]:
    for columns in (COLUMNS, (*_FEWER, "NOTE")):
        rows = [_row(model, columns, note(model)) for model in models]
        lines = table([columns, *rows], right=_numbers(columns))
        if width is None or max(map(width_of, lines)) <= width:
            return lines
        if width - lines[0].index("NOTE") >= _NOTE:
            return [cut(line, width) for line in lines]
    assert width is not None  # without a width the first table is taken
    return _narrow(models, width)


def _narrow(models: list[Model], width: int) -> list[str]:
    """Return the table for a narrow terminal: notes on lines of their own, and long names too."""
    for columns, is_short in ((COLUMNS[:-1], False), (COLUMNS[:-1], True), (_FEWER, False), (_FEWER, True)):
        heads = [_SHORT.get(column, column) if is_short else column for column in columns]
        rows = [_row(model, columns) for model in models]
        rest = table([row[1:] for row in (heads, *rows)], right=[n - 1 for n in _numbers(columns)])
        widths = [width_of(row[0]) for row in (columns, *rows)]
        room = width - 2 - max(map(width_of, rest))
        if max(widths) <= room:
            break
    indent = max((each for each in widths if each <= room), default=5)
    lines = [f"{columns[0]:{indent}}  {rest[0]}"]
    for model, (name, *_), line in zip(models, rows, rest[1:], strict=True):
        beside = width_of(name) <= indent
        lines += [f"{padded(name, indent)}  {line}"] if beside else [name, f"{'':{indent}}  {line}"]
        if text := note(model, brief=True):
            lines.append(_INDENT + cut(text, width - len(_INDENT)))
    return lines


def _row(model: Model, columns: Sequence[str], text: str = "") -> tuple[str, ...]:
    """Return the cells of a model's row; `text` is its note.  An older muxd tells fewer of them."""
    cells = {
        "MODEL": plain(model["name"]),
        "STATE": model["state"],
        "SINCE": duration(model["since_s"]),
        "GPU": ",".join(map(str, model["gpus"])) or anywhere(model) or "-",
        "GIB": _held(model),
        "IN-FLIGHT": _by_class(model, "in_flight"),
        "WAITING": _by_class(model, "waiting"),
        "REQ/MIN": "-" if model.get("requests_per_min") is None else str(model["requests_per_min"]),
        "TOK/S": "-" if model.get("tokens_per_s") is None else f"{model['tokens_per_s']:.0f}",
        "USED": _last_use(model),
        "RESTARTS": str(model["restarts"]),
        "NOTE": text,
    }
    return tuple(cells[column] for column in columns)


def _by_class(model: Model, figure: str) -> str:
    """Return how many requests of a model run or wait, and how many of them are batch, where some are."""
    batch = model.get(f"{figure}_batch")  # an older muxd tells none
    return f"{model[figure]} ({batch} batch)" if batch else str(model[figure])


def _numbers(columns: Sequence[str]) -> list[int]:
    return [place for place, column in enumerate(columns) if column not in _NO_NUMBERS]


def _held(model: Model) -> str:
    """Return the GiB of GPU memory that a model has now, as measured; "-" where that is unknown."""
    memory = model.get("memory") or {}
    if model["state"] in ("unloaded", "stopped", "backoff", "failed"):
        return "0"
    held = memory.get("asleep" if model["state"] == "asleep" else "awake")
    return "-" if held is None else gibibytes(held)


def _last_use(model: Model) -> str:
    """Return how long ago the last answer of a model ended: "now" while it is in use, "-" before its first."""
    if model["in_flight"] or model["waiting"]:
        return "now"
    return "-" if model.get("unused_s") is None else duration(model["unused_s"])


def anywhere(model: Model) -> str:
    """Return "any 2" for a model that will run on any two GPUs; "" for others, and from an older muxd."""
    return f"any {model['any_gpus']}" if model.get("any_gpus") else ""


def note(model: Model, *, brief: bool = False) -> str:
    """Return what else is worth knowing of a model at a glance; "" if all is well.

    `brief` leaves out its sleep level, and an exit of long ago.
    """
    parts = [_held_down(model), _kept(model), plain(model.get("impossible") or ""), _next(model), _other_workers(model)]
    if (eta := seconds_to_ready(model)) is not None:
        parts.append(f"ready in {about(eta)}")
    if model["waiting"] and model["oldest_wait_s"]:
        parts.append(f"oldest waits {duration(model['oldest_wait_s'])}")
    if model["state"] == "asleep" and not brief:
        parts.append(f"sleep level {model.get('level', model['sleep_level'])}")
    if model["reason"] and not model.get("stopped_by_operator"):
        parts.append(plain(model["reason"]))
    elif (last := model["last_exit"]) and not (brief and last["when_s"] > _OLD):
        parts.append(f"{plain(last['reason'])} {duration(last['when_s'])} ago")
    if (trouble := plain(model.get("sleep_trouble") or "")) and not any(trouble in part for part in parts):
        parts.append(trouble)
    if model["dropped_log_bytes"]:
        parts.append(f"{model['dropped_log_bytes']} bytes of its log were lost{lost_ago(model)}")
    return "; ".join(part for part in parts if part)


def seconds_to_ready(model: Model) -> float | None:
    """Return the seconds until the model is ready; None if unknown, if it is ready, or if nobody waits for it.

    The ETA of a model that gives way, and that nobody waits for, is the time until it has given way.
    """
    leaves = model["state"] in _LEAVING and not model["waiting"]
    if model["state"] == "ready" or model.get("stopped_by_operator") or leaves:
        return None
    eta: float | None = model["eta_s"]
    return eta


def _held_down(model: Model) -> str:
    if model.get("removed"):
        return "not configured any more"
    if not model.get("stopped_by_operator"):
        return ""
    return "stopped by an operator" if model["state"] == "stopped" else "an operator stops it"


def _kept(model: Model) -> str:
    """Return "held", with how long still; "" for a model that no operator holds, and from an older muxd."""
    left = model.get("held_for_s")
    return "" if not model.get("held") else "held" if left is None else f"held for {duration(left)}"


def _other_workers(model: Model) -> str:
    """Return which of several workers are in another state than their model; a router that runs is in none.

    Those whose state the model's reason says are left out, and replicas that it does without.
    """
    known = [w for w in model.get("workers", ()) if not (w.get("spare") and w["state"] in ("asleep", "unloaded"))]
    workers = [w for w in known if (w["role"], w["state"]) != ("router", "ready")]
    others = [worker for worker in workers if worker["state"] != model["state"]]
    states = [f"{worker['name']} is {worker['state'].replace('_', ' ')}" for worker in others]
    reason = "" if model.get("stopped_by_operator") else model["reason"] or ""
    return ", ".join(plain(state) for state in states if f"{state}: " not in reason)


def _next(model: Model) -> str:
    """Return what happens to the model next; "" for one at rest, which simply wakes when it is asked for, and can."""
    if model.get("next"):
        return "" if _rests(model) and not model["next"].startswith("cannot ") else plain(model["next"])
    return "" if model["retry_in_s"] is None else f"tries again in {duration(model['retry_in_s'])}"
