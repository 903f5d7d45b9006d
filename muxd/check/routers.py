"""Checks of the interpreters that are to run the models' routers, and of the flags that these are given."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from muxd.config.model_schema import Model
from muxd.engines.kind import NotInstalled
from muxd.engines.registry import kind_of
from muxd.engines.routers import SGLangRouter, router_for
from muxd.engines.routers.sglang_router import PACKAGE, interpreter
from muxd.errors import ConfigError, EngineMissing

from .machine import HostCheck
from .report import ReportLine, ok, warn, wrong


def router_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line for each interpreter that is to run sglang-router, and for each of `args` that this refuses."""
    wanted: dict[str, list[Model]] = {}
    for model in machine.models:
        if _has_router(model) and shutil.which(interpreter(model)):  # another check reports a program that is not there
            wanted.setdefault(interpreter(model), []).append(model)
    for python, models in wanted.items():
        try:
            yield ok("router", f"{python}: {PACKAGE.look(python, machine.environ_of(models[0]))}")
        except NotInstalled as error:
            remedy = f"install it there: {python} -m pip install 'muxd[router]'; or name another python in router"
            keys = ("router", "replicas", "max_replicas")
            where = next(filter(None, (machine.where(models[0], key) for key in keys)), "")
            yield wrong("router", f"{python}: {error} ({EngineMissing.code}); {remedy}", where)
            continue
        try:
            for model, text in _refused_args(python, models, machine.environ_of(models[0])):
                yield wrong(model.name, text, machine.where(model, "router", "args"))
        except NotInstalled as error:
            yield warn("router", f"{python}: router.args were not compared with its flags: {error}")


def refuse_args(models: Sequence[Model], environ: Mapping[str, str]) -> None:
    """Raise ConfigError if the sglang-router that is installed refuses flags that are passed on to it.

    Where none is installed nothing is said: its start says that.
    """
    for model in models:
        with suppress(NotInstalled):
            if refused := [text for _, text in _refused_args(interpreter(model), [model], environ)]:
                raise ConfigError([f"muxd router: {text}" for text in refused])


def _refused_args(python: str, models: Sequence[Model], environ: Mapping[str, str]) -> Iterator[tuple[Model, str]]:
    """Yield what the router of an interpreter has against `router.args` of models; raise NotInstalled."""
    given = {model.name: model.router.args for model in models if model.router is not None and model.router.args}
    faults = PACKAGE.rejected_args(python, environ, given) if given else {}
    for model in models:
        for fault in faults.get(model.name, ()):
            yield model, f"the sglang-router of {python} does not take router.args: {fault.text}"


def _has_router(model: Model) -> bool:
    if not kind_of(model).capabilities.uses_gpus:
        return True
    return model.most_replicas > 1 and isinstance(router_for(model), SGLangRouter)
