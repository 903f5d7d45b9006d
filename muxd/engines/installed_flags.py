"""What engines that are installed have against the flags of models: told by `muxd check`, and before a reload.

It is asked of an engine's own parser, which takes seconds.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from muxd.config.half_options import HALVES
from muxd.config.lines import KeyPath
from muxd.config.model_schema import Model

from .kind import ArgFault, InstallationChecks, NotInstalled
from .registry import ENGINES, kind_of


class FlagFault(NamedTuple):
    """What is wrong with flags; `is_refused`: their engine does not take them, else they are likely a mistake."""

    text: str
    is_refused: bool


def flag_faults(
    checks: InstallationChecks, python: str, args: Sequence[str], rejected: Sequence[ArgFault], whose: str
) -> Iterator[FlagFault]:
    """Yield each mistake in flags once, some of which the interpreter's engine has `rejected`; `whose`: their key."""
    told: set[str] = set()
    for odd in checks.odd(args, not whose):
        yield FlagFault(odd.text, any(odd.words & each.words for each in rejected))
        told |= odd.words
    for each in rejected:
        if not each.words & told:
            text = f"the {checks.package.title} of {python} does not take {whose or 'its flags'}: {each.text}"
            yield FlagFault(text, True)


def flags_to_ask(model: Model, checks: InstallationChecks) -> dict[str, Sequence[str]]:
    """Return all flags of the model's servers, by the name under which their engine is asked: NAME, or NAME/HALF.

    Those are left out for which no key of the user's has any.
    """
    asked = {model.name: checks.flags(model)} if kind_of(model).own_args(model) else {}
    for half in HALVES:
        if args := own_args(model, half):
            asked[asked_name(model, half)] = checks.flags(replace(model, args=tuple(args)))
    return asked


def asked_name(model: Model, half: str) -> str:
    """Return the name under which an engine is asked for the flags of a model, or of its half."""
    return f"{model.name}/{half}" if half else model.name


def own_args(model: Model, half: str) -> Sequence[str]:
    """Return the flags that the user's keys say for one half of the model alone, or where that is "", for all of it."""
    if not half:
        return kind_of(model).own_args(model)
    options = getattr(model, half)
    return options.args if options is not None else ()


def changed_models(wanted: Sequence[Model], running: Sequence[Model]) -> list[tuple[Model, Model | None]]:
    """Return the models that a reload adds or changes, each with what it was; None: it is new."""
    before = {model.name: model for model in running}
    return [(model, was) for model in wanted if model != (was := before.get(model.name))]


def faults_of_a_reload(
    changed: Sequence[tuple[Model, Model | None]], environ: Mapping[str, str]
) -> Iterator[tuple[KeyPath, FlagFault]]:
    """Yield what is wrong with flags that a reload gives to models, each by its key; those that stay are not asked for.

    `changed`: see `changed_models`.  What could not be compared is a fault that is not refused.
    """
    asked: dict[tuple[str, str, tuple[tuple[str, str], ...]], list[Model]] = {}
    for model, was in changed:
        python = _python(model, environ)
        is_new = was is None or (python, *_said(model)) != (_python(was, environ), *_said(was))
        if python is not None and is_new:
            asked.setdefault((model.engine, python, tuple(sorted(model.env.items()))), []).append(model)
    for (engine, python, env), models in asked.items():
        checks = ENGINES[engine].installation
        assert checks is not None
        yield from _faults(checks, python, models, {**environ, **dict(env)})


def _python(model: Model, environ: Mapping[str, str]) -> str | None:
    """Return the interpreter whose engine can be asked; None where there is none."""
    if kind_of(model).installation is None or model.script is not None:
        return None
    return shutil.which(model.engine_options.python, path={**environ, **model.env}.get("PATH"))


def _said(model: Model) -> tuple[object, ...]:
    return (model.engine, *(tuple(own_args(model, half)) for half in ("", *HALVES)))


def _faults(
    checks: InstallationChecks, python: str, models: Sequence[Model], environ: Mapping[str, str]
) -> Iterator[tuple[KeyPath, FlagFault]]:
    """Yield what the engine of one interpreter has against the flags of models, or that it is not there."""
    flags = {name: words for model in models for name, words in flags_to_ask(model, checks).items()}
    try:
        checks.package.look(python, environ)
        rejected = checks.package.rejected_args(python, environ, flags) if flags else {}
    except NotInstalled as error:
        remedy = f"; {checks.remedy(python)}" if error.is_missing else ": args were not compared with its flags"
        for model in models:
            yield ("models", model.name, "python"), FlagFault(f"{python}: {error}{remedy}", error.is_missing)
        return
    for model in models:
        for half in ("", *HALVES):
            key = (half, "args") if half else ("args",)
            faults = rejected.get(asked_name(model, half), ())
            for fault in flag_faults(checks, python, own_args(model, half), faults, ".".join(key)):
                yield ("models", model.name, *key), fault
