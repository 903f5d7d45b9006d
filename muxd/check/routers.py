"""Checks of the interpreters that are to run the models' routers, and of the flags that these are given."""

import shutil
from collections.abc import Iterator

from muxd.config.model_schema import Model
from muxd.engines.kind import NotInstalled
from muxd.engines.routers.installed_parser import has_router, refused_args
from muxd.engines.routers.sglang_router import PACKAGE, interpreter
from muxd.errors import EngineMissing

from .machine import HostCheck
from .report import ReportLine, ok, warn, wrong


def router_lines(machine: HostCheck) -> Iterator[ReportLine]:
    """Yield a line for each interpreter that is to run sglang-router, and for each of `args` that this refuses."""
    wanted: dict[str, list[Model]] = {}
    for model in machine.models:
        if has_router(model) and shutil.which(interpreter(model)):  # another check reports a program that is not there
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
        machine.with_router |= {model.name for model in models}
        try:
            for model, text in refused_args(python, models, machine.environ_of(models[0])):
                yield wrong(model.name, text, machine.where(model, "router", "args"))
        except NotInstalled as error:
            yield warn("router", f"{python}: router.args were not compared with its flags: {error}")
