"""Checks of the interpreters that are to run the models' routers."""

import shutil
from collections.abc import Iterator

from muxd.config.model_schema import Model
from muxd.engines.kind import NotInstalled
from muxd.engines.registry import kind_of
from muxd.engines.routers import SGLangRouter, router_for
from muxd.engines.routers.sglang_router import PACKAGE, interpreter
from muxd.errors import EngineMissing

from .machine import HostCheck
from .report import ReportLine, ok, wrong


def router_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line for each interpreter that is to run sglang-router."""
    wanted: dict[str, Model] = {}
    for model in machine.models:
        if _has_router(model) and shutil.which(interpreter(model)):  # another check reports a program that is not there
            wanted.setdefault(interpreter(model), model)
    for python, model in wanted.items():
        try:
            yield ok("router", f"{python}: {PACKAGE.look(python, machine.environ_of(model))}")
        except NotInstalled as error:
            remedy = f"install it there: {python} -m pip install 'muxd[router]'; or name another python in router"
            keys = ("router", "replicas", "max_replicas")
            where = next(filter(None, (machine.where(model, key) for key in keys)), "")
            yield wrong("router", f"{python}: {error} ({EngineMissing.code}); {remedy}", where)


def _has_router(model: Model) -> bool:
    if not kind_of(model).capabilities.uses_gpus:
        return True
    return model.most_replicas > 1 and isinstance(router_for(model), SGLangRouter)
