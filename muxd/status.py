"""muxd's status as JSON-ready values; nothing in this module waits or changes anything."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from .children import Dropped
from .config import Config, Model
from .config.loopback import is_loopback
from .config.schema import GpuBudgets
from .core.ledger import GpuId, in_order, shown_gpu
from .core.progress import Progress
from .core.spec import Role
from .core.states import DOWN, WorkerState
from .core.view import GroupView, HostView, ScaleView, SwitchView, WorkerView
from .gpus import Gpus
from .members import members_of
from .protocol import seconds
from .strangers import Strangers
from .workers import Runner


def model_status(group: GroupView, runners: Mapping[str, Runner], wanted: Model | None, now: float) -> dict[str, Any]:
    """Return one model's status; times are in seconds, sizes in bytes.

    `runners` are those of all workers.  `wanted` is the model as configured now, or None where a reload has removed it.
    """
    several = [runners[worker.name] for worker in group.members]
    runner = several[0]
    model = wanted or runner.model
    dropped = _dropped(several)
    said: dict[str, Any] = {
        "name": group.name,
        "served_names": list(model.served_names),
        "engine": model.engine,
        "state": group.shown_state,
        "since_s": seconds(now - group.since),
        "sleep_level": group.sleep_level,
        "level": group.level if group.state is WorkerState.ASLEEP else None,
        "sleep_trouble": group.sleep_trouble or None,
        "pinned": group.pinned,
        "held": group.held_for is not None,
        "held_for_s": seconds(group.held_for),
        "stopped_by_operator": group.stopped_by_operator,
        "removed": wanted is None,
        "gpus": [shown_gpu(gpu) for gpu in _gpus(model, group)],
        "any_gpus": model.any_gpus or None,
        "url": group.url if group.state is WorkerState.READY else None,
        "generation": group.generation,
        "in_flight": group.in_flight,
        "waiting": group.waiting,
        "in_flight_batch": group.in_flight_batch,
        "waiting_batch": group.waiting_batch,
        "oldest_wait_s": seconds(group.oldest_wait),
        "unused_s": seconds(group.unused_for),
        "leases": group.leases,
        "switch_timeout_s": seconds(model.switch_timeout),
        "restarts": sum(worker.restarts for worker in group.members),
        "pid": runner.pid if len(several) == 1 else None,
        "last_exit": _last_exit(max(group.members, key=lambda worker: worker.ended_at), runners, now),
        "max_model_len": runner.context_length,
        "is_generation": runner.is_generation if _is_as_wanted(runner, wanted) else None,
        "reason": group.reason or runner.notice or _contradictions(model) or None,
        "impossible": group.never_loads or None,
        "memory": _memory(several),
        "next": group.next_step,
        "eta_s": None if group.is_leaving else seconds(group.progress.eta),
        "retry_in_s": _retry_in(group),
        "dropped_log_bytes": dropped.bytes,
        "dropped_log_reason": dropped.why or None,
        "dropped_log_now": dropped.going_on,
    }
    if group.scale is not None:
        said["replicas"] = _scale(group.scale)
    if len(several) > 1:
        said["workers"] = [_worker_status(worker, runners, now) for worker in group.members]
    return said


def _scale(scale: ScaleView) -> dict[str, Any]:
    return {
        "wanted": scale.wanted,
        "ready": scale.ready,
        "min": scale.least,
        "max": scale.most,
        "automatic": scale.is_automatic,
        "lacks": scale.lacks or None,
    }


def _gpus(model: Model, group: GroupView) -> Sequence[GpuId]:
    """Return the GPUs of a model: those where its process is, if any will do, and none before it has one."""
    if not model.any_gpus:
        return model.gpus
    return in_order(group.gpus) if not group.is_down else ()


def _gpus_of(worker: WorkerView, model: Model) -> Sequence[GpuId]:
    """Return likewise the GPUs of one of several workers."""
    if not model.any_gpus or worker.role is Role.ROUTER:
        return model.gpus
    return () if worker.state in DOWN else in_order(worker.gpus)


def _worker_status(worker: WorkerView, runners: Mapping[str, Runner], now: float) -> dict[str, Any]:
    """Return what one worker of several does; the keys mean what they do for a model."""
    runner = runners[worker.name]
    return {
        "name": worker.name,
        "role": worker.role,
        "state": worker.state,
        "spare": worker.is_spare,
        "since_s": seconds(now - worker.since),
        "level": worker.level if worker.state is WorkerState.ASLEEP else None,
        "gpus": [shown_gpu(gpu) for gpu in _gpus_of(worker, runner.model)],
        "url": worker.url if worker.state is WorkerState.READY else None,
        "restarts": worker.restarts,
        "pid": runner.pid,
        "last_exit": _last_exit(worker, runners, now),
        "reason": worker.reason or runner.notice or None,
        "memory": _memory([runner]),
        "retry_in_s": _retry_in(worker),
    }


def _is_as_wanted(runner: Runner, wanted: Model | None) -> bool:
    """Say whether what the server said of itself holds for the model as configured now."""
    return wanted is not None and runner.model == members_of(wanted)[0].model


def _contradictions(model: Model) -> str:
    """Return where the model's table, its launch script and the server that this starts disagree, or ""."""
    return "; ".join(model.script.contradictions) if model.script is not None else ""


def _last_exit(worker: WorkerView, runners: Mapping[str, Runner], now: float) -> dict[str, Any] | None:
    if not worker.ended:
        return None
    code = worker.ended_code or None
    return {
        "code": code,
        "reason": worker.ended,
        "when_s": seconds(now - worker.ended_at),
        "log_tail": runners[worker.name].log_tail,
    }


def _memory(runners: Sequence[Runner]) -> dict[str, int | None]:
    """Return the bytes on all GPUs of these workers together: as declared, and as measured awake and asleep."""
    known = [runner.gpu_memory for runner in runners if runner.model.gpus]
    return {
        "declared": sum(memory.declared for memory in known) or None,
        "awake": _sum(memory.awake for memory in known),
        "asleep": _sum(memory.asleep for memory in known),
    }


def _sum(sizes: Iterable[int | None]) -> int | None:
    """Return the sum of the sizes that are known; None where none is."""
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _dropped(runners: Sequence[Runner]) -> Dropped:
    """Return what was lost of the logs of these workers."""
    each = [runner.dropped for runner in runners]
    why = next((dropped.why for dropped in each if dropped.why), "")
    return Dropped(sum(dropped.bytes for dropped in each), why, any(dropped.going_on for dropped in each))


def _retry_in(view: GroupView | WorkerView) -> float | None:
    return None if view.retry_wait == -inf else seconds(max(0.0, view.retry_wait))


def switch_status(switch: SwitchView, progress: Progress, now: float) -> dict[str, Any]:
    """Return what is told of a switch that is under way."""
    return {
        "to": switch.target,
        "from": sorted(switch.victims),
        "phase": progress.phase,
        "elapsed_s": seconds(now - switch.since),
        "eta_s": seconds(progress.eta),
    }


def host_memory_status(host: HostView) -> dict[str, int] | None:
    """Return the bytes of host RAM that copies of weights and standbys may take, and do; None: nobody reckons them."""
    if host.host_ram is None:
        return None
    return {"for_weights": host.host_ram, "weights": host.copies, "standby": host.waiting}


def gpu_status(gpus: Gpus, budgets: GpuBudgets, found: Mapping[GpuId, Strangers]) -> list[dict[str, Any]]:
    """Return each GPU's memory in bytes, and how busy, hot and hungry it is, as far as NVML tells.

    `for_models`: what models may have together, with what strangers leave.
    """
    return [
        {
            "index": shown_gpu(gpu.id),
            "name": gpu.name,
            "total": gpu.total,
            "used": gpu.used,
            "for_models": budgets.most(gpu.id, gpu.total, found[gpu.id].size if gpu.id in found else 0),
            "strangers": _strangers(found[gpu.id]) if gpu.id in found else None,
            "utilization": gpu.health.utilization,
            "temperature_c": gpu.health.temperature,
            "power_w": gpu.health.power,
        }
        for gpu in gpus.latest.values()
    ]


def _strangers(found: Strangers) -> dict[str, Any]:
    """Return what others than muxd's workers have; no processes: nobody tells which they are."""
    processes = [{"pid": p.pid, "program": p.program, "bytes": p.size} for p in found.processes]
    return {"bytes": found.size, "processes": processes, "text": str(found)}


def door_status(config: Config, now: float) -> dict[str, Any]:
    """Return who may use the proxy; `now` is wall clock time.

    Keys that are revoked or expired admit nobody, but still keep anonymous clients out.
    """
    working = sum(not key.revoked and now < key.expires for key in config.keys)
    open_to = "host" if is_loopback(config.proxy.host) else "everybody"
    return {
        "open_to": "key_holders" if config.keys else open_to,
        "keys": working,
        "keys_not_working": len(config.keys) - working,
    }


def lost(dropped: Dropped) -> dict[str, Any] | None:
    """Return the bytes of a log that the disk refused and the system's reason, or None where nothing was lost."""
    return {"bytes": dropped.bytes, "reason": dropped.why} if dropped.bytes else None
