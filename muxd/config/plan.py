"""Plan of a reload: the difference between the configuration that runs and the one that is wanted.

The module is pure: it reads no file and carries nothing out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from .declarations import keys_of
from .schema import Config, Model

Action = Literal["add", "remove", "restart", "update"]


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
    steps = tuple(_steps(running, wanted))
    touched = {step.model for step in steps}
    settings, needs_restart = _changed_settings(running, wanted)
    return Plan(
        steps=steps,
        settings=settings,
        needs_restart=needs_restart,
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
            yield Step(model.name, "restart" if _needs_restart(old, model) else "update", changes)


def _renamed(old: Model, new: Model) -> bool:
    return not {*_differences(old, new)} - {"name", "served_names"}


def _needs_restart(old: Any, new: Any) -> bool:
    """Say whether a change of one table takes a restart; a field that no user can write always does."""
    declared = keys_of(old)
    return any(
        key not in declared or not declared[key].is_live(getattr(old, key), getattr(new, key))
        for key in _differences(old, new)
    )


def _changed_settings(running: Config, wanted: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the changed keys outside the models that a running muxd takes over, then those that take its restart."""
    live: list[str] = []
    others: list[str] = []
    for section, old in running.sections.items():
        new, declared = wanted.sections[section], keys_of(old)
        for key in _differences(old, new):
            is_live = declared[key].is_live(getattr(old, key), getattr(new, key))
            (live if is_live else others).append(f"{section}.{key}")
    return (*live, *["keys"] * (running.keys != wanted.keys)), tuple(others)


def _differences(old: Any, new: Any) -> tuple[str, ...]:
    """Return the names of the fields in which two dataclasses of one type differ."""
    return tuple(field.name for field in fields(old) if getattr(old, field.name) != getattr(new, field.name))
