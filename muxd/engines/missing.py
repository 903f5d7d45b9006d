"""What muxd tells at its start of interpreters that do not have the engine of their models.

Each is asked once, in the background: a model that cannot be loaded keeps no other from starting.
"""

import logging
import os
import shutil
from functools import partial

from muxd.config.model_schema import Model
from muxd.config.schema import Config
from muxd.threads import in_thread

from .kind import InstallationChecks, NotInstalled
from .registry import kind_of

log = logging.getLogger(__name__)

_Asked = tuple[str, tuple[tuple[str, str], ...]]  # an interpreter, and what its models add to the environment


async def warn_of_missing_engines(config: Config) -> None:
    """Log a warning for each interpreter that lacks the engine of its models."""
    asked: dict[_Asked, tuple[InstallationChecks, list[str]]] = {}
    for model in config.models:
        checks = kind_of(model).installation
        if checks is not None and (python := _python(model)) is not None:
            _, names = asked.setdefault((python, tuple(sorted(model.env.items()))), (checks, []))
            names.append(model.name)
    for (python, env), (checks, names) in asked.items():
        try:
            look = partial(checks.package.look, python, {**os.environ, **dict(env)})
            await in_thread(look, abandon_on_cancel=True)
        except NotInstalled as error:
            log.warning("%s cannot be loaded: %s: %s; %s", ", ".join(names), python, error, checks.remedy(python))


def _python(model: Model) -> str | None:
    """Return the path of the model's interpreter; None where there is none, or only its launch script knows it."""
    if model.script is None:
        return shutil.which(model.engine_options.python)
    name = os.path.basename(model.script.program)
    is_plain = os.path.isabs(model.script.program) and name.startswith("python")
    return shutil.which(model.script.program) if is_plain else None
