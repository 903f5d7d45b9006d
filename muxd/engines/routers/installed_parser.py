"""What an installed sglang-router says of the flags that it is to be given, before a router is ended for another."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from muxd.config.lines import KeyPath
from muxd.config.model_schema import Model
from muxd.engines.kind import NotInstalled
from muxd.engines.registry import kind_of
from muxd.errors import ConfigError

from . import SGLangRouter, router_for
from .sglang_router import PACKAGE, interpreter


def refuse_args(models: Sequence[Model], environ: Mapping[str, str]) -> None:
    """Raise ConfigError if the sglang-router that is installed refuses flags that are passed on to it.

    Where none is installed nothing is said: its start says that.
    """
    for model in models:
        with suppress(NotInstalled):
            if refused := [text for _, text in refused_args(interpreter(model), [model], environ)]:
                raise ConfigError([f"muxd router: {text}" for text in refused])


def faults_of_new_routers(
    changed: Sequence[tuple[Model, Model | None]], environ: Mapping[str, str]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield why another router of a running model cannot start, by its `router.args` or `router.python`.

    A reload ends the router that serves: the next one's flags are shown to its own parser first (0.5 s).  `changed`:
    the models that it changes or adds, each with what it was.
    """
    for model, was in changed:
        if was is None or model.router is None or not (has_router(model) and has_router(was)):
            continue
        python, own, key = interpreter(model), {**environ, **model.env}, ("models", model.name, "router")
        try:
            if python != interpreter(was):
                PACKAGE.look(python, own)
            if (python, model.router.args) != (interpreter(was), was.router.args if was.router else ()):
                yield from (((*key, "args"), text) for _, text in refused_args(python, [model], own))
        except NotInstalled as error:
            yield (*key, "python"), f"{python}: {error}; name one that has sglang-router"


def refused_args(python: str, models: Sequence[Model], environ: Mapping[str, str]) -> Iterator[tuple[Model, str]]:
    """Yield what the router of an interpreter has against `router.args` of models; raise NotInstalled."""
    given = {model.name: model.router.args for model in models if model.router is not None and model.router.args}
    faults = PACKAGE.rejected_args(python, environ, given) if given else {}
    for model in models:
        for fault in faults.get(model.name, ()):
            yield model, f"the sglang-router of {python} does not take router.args: {fault.text}"


def has_router(model: Model) -> bool:
    """Say whether the model has a router that is sglang-router."""
    if not kind_of(model).capabilities.uses_gpus:
        return True
    return model.most_replicas > 1 and isinstance(router_for(model), SGLangRouter)
