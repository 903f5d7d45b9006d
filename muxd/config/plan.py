"""Plan of a reload: the difference between the configuration that runs and the one that is wanted.

The module is pure: it reads no file and carries nothing out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from .schema import Config, Model

Action = Literal["add", "remove", "restart", "update"]

#: Keys of a model on which its process, its log files or its claim on the GPUs depend: a change restarts the worker.
PROCESS_KEYS = frozenset(
    {
        "script",
        "engine",
        "model_path",
        "gpus",
        "cuda_devices",
        "memory",
        "sleep_level",
        "port",
        "python",
        "args",
        "env",
        "cwd",
        "log_max_bytes",
        "log_backups",
        "simulation",
    }
)

#: Keys of a model that only muxd reads, while the worker runs: a change needs no restart of the worker.
WATCH_KEYS = frozenset(
    {
        "preload",
        "start_timeout",
        "stop_timeout",
        "drain_timeout",
        "switch_timeout",
        "call_timeout",
        "gpu_release_timeout",
        "restart_limit",
        "restart_window",
        "stable_after",
        "cool_down",
        "probe_interval",
        "probe_timeout",
        "probe_failures",
        "hang_timeout",
        "concurrency_limit",
        "queue_limit",
        "upstream_name",
        "set_params",
        "strip_params",
    }
)

#: Keys outside the models that a running muxd can take over; every other one needs a restart of muxd.
LIVE_SETTINGS = frozenset(
    {"muxd.log_level", "muxd.log_format", "muxd.shutdown_timeout", "policy.wait_target", "policy.keep_turns", "keys"}
)


@dataclass(frozen=True, slots=True)
class Step:
    """Change of one model in a reload."""

    model: str
    action: Action
    changes: tuple[str, ...] = ()  # the keys that differ; none where the model is added or removed
    was: str = ""  # former name of an added model that differs from a removed one by its names only

    def as_json(self) -> dict[str, Any]:
        said = {"model": self.model, "action": self.action, "changes": list(self.changes)}
        return said | ({"was": self.was} if self.was else {})


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of a reload: removals first, then the other steps in the order of the wanted file.

    Removals come first because a name may pass from a removed model to another one within a plan.
    """

    steps: tuple[Step, ...] = ()
    settings: tuple[str, ...] = ()  # changed keys that a running muxd takes over
    needs_restart: tuple[str, ...] = ()  # changed keys that take effect only with a restart of muxd
    unchanged: tuple[str, ...] = ()  # names of models

    def __bool__(self) -> bool:
        """Say whether anything has changed."""
        return bool(self.steps or self.settings or self.needs_restart)

    def __str__(self) -> str:
        """Return one line for a log."""
        steps = [
            f"{step.action} {step.model}" + f" ({', '.join(step.changes)})" * bool(step.changes) for step in self.steps
        ]
        return "; ".join([*steps, *(f"change {key}" for key in self.settings)]) or "nothing has changed"

    def as_json(self) -> dict[str, Any]:
        return {
            "plan": [step.as_json() for step in self.steps],
            "settings": list(self.settings),
            "needs_restart": list(self.needs_restart),
            "unchanged": list(self.unchanged),
        }


def plan_of(running: Config, wanted: Config) -> Plan:
    """Return the plan that leads from the running configuration to the wanted one.

    Models are matched by name: a renamed model is removed under one name and added under the other.
    """
    settings = tuple(_changed_settings(running, wanted))
    steps = tuple(_steps(running, wanted))
    touched = {step.model for step in steps}
    return Plan(
        steps=steps,
        settings=tuple(key for key in settings if key in LIVE_SETTINGS),
        needs_restart=tuple(key for key in settings if key not in LIVE_SETTINGS),
        unchanged=tuple(model.name for model in wanted.models if model.name not in touched),
    )


def _steps(running: Config, wanted: Config) -> Iterator[Step]:
    before = {model.name: model for model in running.models}
    kept = {model.name for model in wanted.models}
    yield from (Step(name, "remove") for name in before if name not in kept)
    for model in wanted.models:
        if (old := before.get(model.name)) is None:
            gone = (old for name, old in before.items() if name not in kept)
            yield Step(model.name, "add", was=next((old.name for old in gone if _renamed(old, model)), ""))
        elif changes := _differences(old, model):
            yield Step(model.name, "restart" if _needs_new_process(old, model, changes) else "update", changes)


def _renamed(old: Model, new: Model) -> bool:
    return not {*_differences(old, new)} - {"name", "served_names"}


def _needs_new_process(old: Model, new: Model, changes: tuple[str, ...]) -> bool:
    """Say whether the model's worker must be restarted for the keys in `changes`.

    Of the served names only the first is passed to the engine.  A key that is neither in PROCESS_KEYS nor in WATCH_KEYS
    counts as one of the process.
    """
    return old.served_names[:1] != new.served_names[:1] or not WATCH_KEYS.issuperset({*changes} - {"served_names"})


def _changed_settings(running: Config, wanted: Config) -> Iterator[str]:
    """Yield the changed keys outside the models as the user writes them, in the order of the schema."""
    for section, old, new in (
        ("muxd", running.daemon, wanted.daemon),
        ("proxy", running.proxy, wanted.proxy),
        ("policy", running.policy, wanted.policy),
    ):
        keys = ("listen" if section == "proxy" and key in ("host", "port") else key for key in _differences(old, new))
        yield from dict.fromkeys(f"{section}.{key}" for key in keys)
    if running.keys != wanted.keys:
        yield "keys"


def _differences(old: Any, new: Any) -> tuple[str, ...]:
    """Return the names of the fields in which two dataclasses of one type differ."""
    return tuple(field.name for field in fields(old) if getattr(old, field.name) != getattr(new, field.name))
