"""Plan of a reload: the difference between the configuration that runs and the one that is wanted.

The module is pure: it reads no file and carries nothing out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from hashlib import sha256
from typing import Any, Literal

from .declarations import keys_of
from .engine_options import OPTION_KEYS
from .model_schema import Model
from .schema import Config

Action = Literal["add", "remove", "restart", "update"]


@dataclass(frozen=True, slots=True)
class Step:
    """Change of one model in a reload."""

    model: str
    action: Action
    changes: tuple[str, ...] = ()  # the keys that differ; none where the model is added or removed
    was: str = ""  # former name of an added model that differs from a removed one by its names only
    workers: tuple[tuple[str, str], ...] = ()  # of an updated one those that change, each behind start, stop, restart

    def as_json(self) -> dict[str, Any]:
        said = {"model": self.model, "action": self.action, "changes": list(self.changes)}
        said |= {"was": self.was} if self.was else {}
        return said | ({"workers": [f"{verb} {worker}" for verb, worker in self.workers]} if self.workers else {})


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
    gone = [old for name, old in before.items() if name not in kept]
    former = _former_names(gone, [model for model in wanted.models if model.name not in before])
    for model in wanted.models:
        if (old := before.get(model.name)) is None:
            yield Step(model.name, "add", was=former.get(model.name, ""))
        elif changes := _changes(old, model):
            yield Step(model.name, "update" if all(changes.values()) else "restart", tuple(changes))


#: Pairs of a removed and an added model that are compared, at most: each takes some 50 us.
MOST_PAIRS = 2500


def identity_of(model: Model) -> str:
    """Return a digest of all that a model's processes depend on: where it differs, they must be others.

    A key that a reload takes over in some cases only counts among those.
    """
    declared = keys_of(model) | OPTION_KEYS
    live = {name for name, declaration in declared.items() if declaration.live is True}
    fixed = {name: value for name, value in _values(model).items() if name not in live}
    return sha256(repr(sorted(fixed.items())).encode()).hexdigest()


def _former_names(gone: Sequence[Model], new: Sequence[Model]) -> dict[str, str]:
    """Return the former names of renamed models, by their new ones: each once, those first that are most alike."""
    if len(gone) * len(new) > MOST_PAIRS:
        pairs = [(old, model) for old, model in zip(gone, new, strict=False) if _renamed(old, model)]
    else:
        pairs = [(old, model) for model in new for old in gone if _renamed(old, model)]
        pairs.sort(key=lambda pair: _likeness(*pair), reverse=True)
    former: dict[str, str] = {}
    for old, model in pairs:
        if old.name not in former.values():
            former.setdefault(model.name, old.name)
    return former


def _likeness(old: Model, new: Model) -> tuple[int, float]:
    """Return how many names clients may use for both models, and how alike the models' own names are."""
    names = {old.name, *old.served_names} & {new.name, *new.served_names}
    return len(names), SequenceMatcher(None, old.name, new.name).ratio()


def _renamed(old: Model, new: Model) -> bool:
    return _changes(old, new).keys() <= {"name", "served_names"}


def _changed_settings(running: Config, wanted: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the changed keys outside the models that a running muxd takes over, then those that take its restart."""
    changes = {
        f"{section}.{key}": is_live
        for section, table in running.sections.items()
        for key, is_live in _changes(table, wanted.sections[section]).items()
    }
    changes |= {"keys": True} if running.keys != wanted.keys else {}
    live = tuple(key for key, is_live in changes.items() if is_live)
    return live, tuple(key for key in changes if key not in live)


def _changes(old: Any, new: Any) -> dict[str, bool]:
    """Return the fields in which two tables of one kind differ, each with whether a reload takes the change over.

    Options that only one of two engines has are left out: `engine` differs then.
    """
    before, after = _values(old), _values(new)
    declared = keys_of(old) | OPTION_KEYS
    return {
        (name if name != "any_gpus" else "gpus"): name in declared and declared[name].is_live(value, after[name])
        for name, value in before.items()
        if name in after and value != after[name]
    }


def _values(table: Any) -> dict[str, Any]:
    """Return the fields of a table by name; the options of a model's engine stand among the model's own."""
    values = {field.name: getattr(table, field.name) for field in fields(table)}
    return values | (_values(values.pop("engine_options")) if "engine_options" in values else {})
