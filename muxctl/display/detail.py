"""The lines of `muxctl status NAME`: everything about one model; a figure that was never measured is "unknown"."""

from typing import Any

from muxctl.display.overview import anywhere, lost_ago, seconds_to_ready
from muxctl.display.tables import about, duration, gibibytes, hanging, plain

Model = dict[str, Any]


def detail(model: Model, width: int | None = None) -> list[str]:
    """Return the facts, each on a line, then the end of the log from when the model last ended."""
    facts = [
        ("model", plain(model["name"])),
        ("state", _state(model)),
        ("reason", plain(model["reason"] or "")),
        ("next", _next(model)),
        ("ready in", _ready_in(model)),
        ("served names", ", ".join(map(plain, model["served_names"]))),
        ("engine", f"{plain(model['engine'])}, sleep level {model['sleep_level']}"),
        ("sleep trouble", plain(model.get("sleep_trouble") or "")),
        ("pinned", "leaves its GPUs for no other model" if model.get("pinned") else ""),
        ("held", _held(model)),
        ("script", plain(model.get("script") or "")),
        ("GPUs", _gpus(model)),
        ("memory", _memory(model)),
        ("weights", _weights(model)),
        ("replicas", _replicas(model)),
        *(_workers(model) or [("worker", _worker(model))]),
        ("requests", _requests(model)),
        ("restarts", str(model["restarts"])),
        ("last exit", _last_exit(model)),
        ("log", _log(model)),
    ]
    lines = hanging([(f"{name}:", text) for name, text in facts if text], width)
    if (last := model["last_exit"]) and last["log_tail"]:
        lines += ["", f"The end of its log, {duration(last['when_s'])} ago:"]
        lines += [f"  | {plain(line)}" for line in last["log_tail"]]
    return lines


def _state(model: Model) -> str:
    state = f"{model['state']} for {duration(model['since_s'])}"
    if model.get("stopped_by_operator"):
        state += ", by an operator" if model["state"] == "stopped" else "; an operator stops it"
    return f"{state}; not configured any more" if model.get("removed") else state


def _held(model: Model) -> str:
    """Return for how long an operator holds the model."""
    if not model.get("held"):
        return ""
    left = model.get("held_for_s")
    end = f"for {duration(left)}, or muxctl unhold" if left is not None else "until muxctl unhold"
    return f"leaves its GPUs for no other model {end}"


def _gpus(model: Model) -> str:
    """Return where the model is, and whether it will be chosen anew."""
    where = ", ".join(map(str, model["gpus"]))
    return f"{where} (chosen; {anywhere(model)})" if where and anywhere(model) else where or anywhere(model) or "none"


def _next(model: Model) -> str:
    if model.get("next"):
        return plain(model["next"])
    if model.get("stopped_by_operator"):
        return f"stays down until muxctl start {plain(model['name'])}"
    if model["retry_in_s"] is not None:
        return f"tries again in {duration(model['retry_in_s'])}"
    return "nothing is planned" if "next" in model and model["state"] == "ready" else ""  # else: the state says it


def _ready_in(model: Model) -> str:
    """Return when the model will be ready: "unknown" if it was never timed, "" if it is ready."""
    if model["state"] == "ready":
        return ""
    if (eta := seconds_to_ready(model)) is not None:
        return about(eta)
    if model.get("stopped_by_operator") or model.get("impossible"):
        return "-"
    on_its_way = model["waiting"] or model["state"] in ("starting", "waking", "backoff")
    return "unknown" if on_its_way else "nobody waits for it"


def _memory(model: Model) -> str:
    """Return the memory on all its GPUs together; "" from an older muxd, which does not send it."""
    memory = model.get("memory")
    if memory is None:
        return ""
    awake, asleep = (_size(memory.get(when), "unknown") for when in ("awake", "asleep"))
    return f"awake {awake}, asleep {asleep}; declared {_size(memory.get('declared'), 'none')}"


def _weights(model: Model) -> str:
    """Return how much of the weight files is in RAM; "" where nobody knows the files, or the kernel does not say."""
    weights = model.get("weights")
    if not weights or weights["in_ram"] is None:
        return ""
    reading = ", and they are being read ahead" if weights["being_read"] else ""
    return f"{gibibytes(weights['in_ram'])} of {gibibytes(weights['bytes'])} GiB are in RAM{reading}"


def _size(size: float | None, otherwise: str) -> str:
    return otherwise if size is None else f"{gibibytes(size)} GiB"


def _worker(model: Model) -> str:
    if not model["pid"]:
        return "none"
    where = f" at {model['url']}" if model["url"] else ""
    count = model["generation"]
    return f"pid {model['pid']}{where}, started or woken {'once' if count == 1 else f'{count} times'}"


def _replicas(model: Model) -> str:
    """Return how many replicas serve and are to; "" for a model that has none."""
    replicas = model.get("replicas")
    if not replicas:
        return ""
    bounds = f"{replicas['min']} to {replicas['max']}, {'as its load asks' if replicas['automatic'] else 'as ordered'}"
    lacks = f"; {plain(replicas['lacks'])}" if replicas["lacks"] else ""
    return f"{replicas['ready']} of {replicas['wanted']} ready; {bounds}{lacks}"


def _workers(model: Model) -> list[tuple[str, str]]:
    """Return a fact for each worker of a model that has several."""
    return [(plain(worker["name"]), _one_of_several(worker)) for worker in model.get("workers", ())]


def _one_of_several(worker: dict[str, Any]) -> str:
    parts = [f"{worker['state']} for {duration(worker['since_s'])}"]
    parts += ["spare"] if worker.get("spare") else []
    parts += [f"GPU {', '.join(map(str, worker['gpus']))}"] if worker["gpus"] else []
    parts += [f"pid {worker['pid']}"] if worker["pid"] else []
    parts += [f"restarts {worker['restarts']}"] if worker["restarts"] else []
    parts += [plain(worker["reason"])] if worker["reason"] else []
    return ", ".join(parts)


def _requests(model: Model) -> str:
    batch = model.get("in_flight_batch")  # an older muxd tells none
    in_flight = f"{model['in_flight']} in flight{f' ({batch} batch)' if batch else ''}"
    proxies = {0: "", 1: ", at 1 proxy"}.get(model["leases"], f", at {model['leases']} proxies")  # each has one lease
    return f"{in_flight}, {model['waiting']} waiting{_wait(model)}{proxies}"


def _wait(model: Model) -> str:
    if not model["waiting"]:
        return ""
    oldest, limit = model["oldest_wait_s"], model.get("switch_timeout_s")
    parts = [f"{model['waiting_batch']} batch"] if model.get("waiting_batch") else []
    parts += [f"the oldest for {duration(oldest)}"] if oldest is not None else []
    parts += [f"each at most {duration(limit)}"] if limit is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _log(model: Model) -> str:
    if not model["dropped_log_bytes"]:
        return ""
    why = model.get("dropped_log_reason")
    return f"{model['dropped_log_bytes']} bytes of it were lost{lost_ago(model)}{f': {plain(why)}' if why else ''}"


def _last_exit(model: Model) -> str:
    last = model["last_exit"]
    if not last:
        return "none"
    code = f" ({plain(last['code'])})" if last.get("code") else ""
    return f"{plain(last['reason'])}{code}, {duration(last['when_s'])} ago"
