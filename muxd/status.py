"""muxd's status as JSON-ready values; nothing in this module waits or changes anything."""

from collections.abc import Mapping
from typing import Any

from .children import Dropped
from .config import Config, Model
from .config.loopback import is_loopback
from .config.schema import GpuBudgets
from .core.ledger import GpuId, shown_gpu
from .core.progress import Progress, next_step, progress_of
from .core.scheduler import Scheduler
from .core.states import WorkerState
from .core.worker import Worker
from .gpus import Gpus
from .lease_streams import seconds
from .strangers import Strangers
from .workers import Runner


def model_status(scheduler: Scheduler, runner: Runner, wanted: Model | None, now: float) -> dict[str, Any]:
    """Return one model's status; times are in seconds, sizes in bytes.

    `wanted` is the model as configured now, or None where a reload has removed it.
    """
    group, model = scheduler.host.groups[runner.model.name], wanted or runner.model
    worker = group.members[0]
    view = progress_of(scheduler.host, scheduler.switching, group, now)
    never = scheduler.host.never_loads(group)
    return {
        "name": model.name,
        "served_names": list(model.served_names),
        "engine": model.engine,
        "state": group.shown_state,
        "since_s": seconds(now - group.since),
        "sleep_level": worker.sleep_level,
        "level": worker.level if worker.state is WorkerState.ASLEEP else None,
        "sleep_trouble": worker.level_trouble or worker.launch_note or None,
        "stopped_by_operator": group.stopped_by_operator,
        "removed": wanted is None,
        "gpus": [shown_gpu(gpu) for gpu in model.gpus],
        "url": group.url if group.state is WorkerState.READY else None,
        "generation": group.generation,
        "in_flight": group.in_flight,
        "waiting": group.waiting_count,
        "oldest_wait_s": seconds(group.oldest_wait(now)) if group.wanted else None,
        "leases": len(group.granted),
        "switch_timeout_s": seconds(model.switch_timeout),
        "restarts": worker.restarts,
        "pid": runner.pid,
        "last_exit": _last_exit(worker, runner, now),
        "max_model_len": runner.context_length,
        "is_generation": runner.is_generation if runner.model == wanted else None,  # else of a former configuration
        "reason": group.reason or runner.notice or _contradictions(model) or None,
        "impossible": str(never) if never else None,
        "memory": _memory(runner),
        "next": next_step(scheduler.host, scheduler.switching, group, now),
        "eta_s": None if group.sent_away and not group.comes_back else seconds(view.eta),
        "retry_in_s": _retry_in(worker, now),
        "dropped_log_bytes": runner.dropped.bytes,
        "dropped_log_reason": runner.dropped.why or None,
        "dropped_log_now": runner.dropped.going_on,
    }


def _contradictions(model: Model) -> str:
    """Return where the model's table, its launch script and the server that this starts disagree, or ""."""
    return "; ".join(model.script.contradictions) if model.script is not None else ""


def _last_exit(worker: Worker, runner: Runner, now: float) -> dict[str, Any] | None:
    if not worker.ended:
        return None
    code = worker.ended_code or None
    return {
        "code": code,
        "reason": worker.ended,
        "when_s": seconds(now - worker.ended_at),
        "log_tail": runner.log_tail,
    }


def _memory(runner: Runner) -> dict[str, int | None]:
    """Return the bytes on all of the model's GPUs together: as declared, and as measured awake and asleep."""
    gpu_memory = runner.gpu_memory
    return {"declared": gpu_memory.declared or None, "awake": gpu_memory.awake, "asleep": gpu_memory.asleep}


def _retry_in(worker: Worker, now: float) -> float | None:
    waits = worker.state in (WorkerState.BACKOFF, WorkerState.FAILED)
    return seconds(max(0.0, worker.retry_at - now)) if waits else None


def switch_status(scheduler: Scheduler, now: float) -> dict[str, Any] | None:
    """Return the oldest switch that is under way, or None."""
    for switch in scheduler.switching.running:
        group = scheduler.host.groups[switch.target]
        view: Progress = progress_of(scheduler.host, scheduler.switching, group, now)
        return {
            "to": switch.target,
            "from": sorted(switch.victims),
            "phase": view.phase,
            "elapsed_s": seconds(now - switch.since),
            "eta_s": seconds(view.eta),
        }
    return None


def gpu_status(gpus: Gpus, budgets: GpuBudgets, found: Mapping[GpuId, Strangers]) -> list[dict[str, Any]]:
    """Return each GPU's memory in bytes; `for_models`: what models may have together, with what strangers leave."""
    return [
        {
            "index": shown_gpu(gpu.id),
            "name": gpu.name,
            "total": gpu.total,
            "used": gpu.used,
            "for_models": budgets.most(gpu.id, gpu.total, found[gpu.id].size if gpu.id in found else 0),
            "strangers": _strangers(found[gpu.id]) if gpu.id in found else None,
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
