"""The members of a model's group: which workers serve it, and what the core is told of them.

A model with one worker is served by that alone, under the model's name.  With `replicas` there are NAME/0, NAME/1 ...,
as many as there may ever be, each with its share of the model's GPUs, or any of them, and NAME/router, which has the
model's port.
With `prefill` and `decode` the workers are NAME/prefill-0 ... and NAME/decode-0 ... instead.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple

from .config import Model
from .config.flags import runs_on_cpu
from .config.plan import Step, identity_of
from .config.scaling_options import ScalingOptions
from .config.schema import Daemon, Policy
from .core.ledger import WHOLE
from .core.spec import DefaultGroup, GroupSpec, Role, Rung, Scaling, WorkerSpec
from .engines.kind import EngineKind
from .engines.registry import kind_of

#: Bytes of host RAM that a process is thought to take at its gate until that is measured.  SGLang 0.5.23 on a CPU has
#: four processes there, with 1.3 GiB together (Pss).
STANDBY_RAM = 2 << 30


class Member(NamedTuple):
    """A worker of a model: `model` is the model as this worker runs it, with the worker's name, GPUs and port."""

    role: Role
    model: Model


def members_of(model: Model) -> tuple[Member, ...]:
    """Return the workers of the model: those that serve, then the router, if there is one."""
    if model.most_replicas == 1:
        return (Member(Role.SERVE, model),)
    each = model.gpus_each
    named = model.served_names or (model.name,)
    common = replace(model, served_names=named, replicas=1, max_replicas=0, min_replicas=None, scaling=None)
    prefill, decode = (half and replace(half, replicas=1, args=()) for half in (model.prefill, model.decode))
    of_router = replace(common, name=router_of(model.name), gpus=(), any_gpus=0, memory=None)
    router = Member(Role.ROUTER, replace(of_router, prefill=prefill, decode=decode))
    common = replace(common, prefill=None, decode=None, router=None)
    parts = (model.gpus[number * each : (number + 1) * each] for number in range(model.most_replicas))
    shares = repeat(model.gpus, model.most_replicas) if model.any_gpus else parts
    serving = (
        Member(
            role, replace(common, name=f"{model.name}/{name}", half=half, args=(*model.args, *args), gpus=gpus, port=0)
        )
        for (role, name, half, args), gpus in zip(_serving(model), shares, strict=True)
    )
    return (*serving, router)


def _serving(model: Model) -> Iterator[tuple[Role, str, str, tuple[str, ...]]]:
    """Yield for each worker that serves its role, the last part of its name, its half, and flags of its own."""
    if model.prefill is None or model.decode is None:
        yield from ((Role.SERVE, str(number), "", ()) for number in range(model.most_replicas))
        return
    for role, half, options in ((Role.PREFILL, "prefill", model.prefill), (Role.DECODE, "decode", model.decode)):
        yield from ((role, f"{half}-{number}", half, options.args) for number in range(options.replicas))


def by_worker(step: Step, before: Model, after: Model) -> Step:
    """Return a step of a reload without a restart where workers that stay are as they were: only others change.

    Where the router has changed it is started anew; the workers behind it are not.
    """
    if step.action != "restart" or 1 in (before.most_replicas, after.most_replicas):
        return step
    old, new = ({m.model.name: identity_of(m.model) for m in members_of(model)} for model in (before, after))
    stay = [name for name in new if name in old and name != router_of(after.name)]
    if not stay or any(old[name] != new[name] for name in stay):
        return step
    changes = [("start", name) for name in new if name not in old]
    changes += [("stop", name) for name in old if name not in new]
    changes += [("restart", name) for name in new if old.get(name, new[name]) != new[name]]
    return replace(step, action="update", workers=tuple(changes))


def router_of(model: str) -> str:
    """Return the name of the router of a model with several workers."""
    return f"{model}/router"


def spec_of(model: Model, daemon: Daemon) -> GroupSpec:
    """Return the part of a model's configuration that the core decides by."""
    workers = tuple(_worker_spec(member, daemon) for member in members_of(model))
    ladder = tuple(Rung(*step) for step in model.idle)
    if model.idle_timeout and not ladder:
        ladder = (Rung(model.idle_timeout, None),)
    return GroupSpec(
        name=model.name,
        workers=workers,
        preload=model.preload,
        drain_timeout=model.drain_timeout,
        switch_timeout=model.switch_timeout,
        pinned=model.pinned,
        replicas=max(model.replicas, model.min_replicas or 0) if model.prefill is None else 0,
        scaling=_scaling(model) if model.is_scaled else None,
        is_packed=model.placement == "packed",
        ladder=ladder,
        sheltered_for=model.evict,
        priority=model.priority,
        prefetch=model.prefetch and has_files(model),
    )


def has_files(model: Model) -> bool:
    """Say whether a server of the model may load weight files that muxd knows of."""
    return bool(model.model_path) and model.script is None and not kind_of(model).is_pretend


def _scaling(model: Model) -> Scaling:
    options = model.scaling or ScalingOptions()
    least = model.replicas if model.min_replicas is None else model.min_replicas
    return Scaling(least, options.load, options.queue_wait, options.up_after, options.down_after)


def default_group(policy: Policy) -> DefaultGroup:
    """Return what the core is told of the model that comes back when nothing else is wanted."""
    return DefaultGroup(policy.default_model, policy.default_after)


def _launchable(kind: EngineKind, model: Model) -> frozenset[int]:
    """Return the sleep levels for which a process of the model can be launched."""
    if model.script is not None:  # its flags are the script's
        return frozenset()
    levels = (model.sleep_level, 3) if kind.capabilities.sleeps_one_way else range(4)
    return frozenset(level for level in levels if level in kind.levels(replace(model, sleep_level=level)))


def _worker_spec(member: Member, daemon: Daemon) -> WorkerSpec:
    role, model = member
    kind, memory = kind_of(model), model.memory
    # A launch script decides by itself what its server does; pretend weights count where the host's size is told.
    is_real = not kind.is_pretend
    is_known = model.script is None and kind.capabilities.counts_host_ram
    is_counted = is_known and (is_real or daemon.host_memory is not None) and role is not Role.ROUTER
    return WorkerSpec(
        name=model.name,
        gpus=frozenset(model.gpus),
        any_of=model.any_gpus,
        on_cards=is_real and not runs_on_cpu(model.args),
        share=kind.granted(model) or WHOLE,
        memory=memory.total if memory is not None else 0,
        sleep_level=model.sleep_level,
        levels=kind.levels(model),
        launchable=_launchable(kind, model) if role is not Role.ROUTER else frozenset(),
        copy=(memory.weights if memory is not None else 0) if is_counted else None,
        resident=(memory.weights + memory.overhead) // max(1, model.gpus_each) if memory is not None else 0,
        restart_limit=model.restart_limit,
        restart_window=model.restart_window,
        stable_after=model.stable_after,
        cool_down=model.cool_down,
        role=role,
        standby=(STANDBY_RAM if is_counted else 0) if _stands_by(model) else None,
    )


def _stands_by(model: Model) -> bool:
    """Say whether the next process of the model waits for it to be wanted."""
    is_one = model.script is None and model.most_replicas == 1 and not model.any_gpus
    return model.standby and kind_of(model).capabilities.has_gate and is_one and model.sleep_level == 3
