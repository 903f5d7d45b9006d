"""`muxd start a.sh b.sh`: sglangmux's command line, as an addition to the configuration or all there is of one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muxd.config.model_schema import Model
from muxd.config.names import MODEL_NAME
from muxd.config.problems import Problems
from muxd.config.schema import Config
from muxd.config.sources import Source

from .bash_syntax import Place
from .script_models import blamed, shown_script

#: Every flag of sglangmux, and what it reads in a script, with what each is here; docs/how-to/coming-from.md shows it.
FLAGS = {
    "`SCRIPT ...`": "`muxd start SCRIPT ...`, or `script` under `[models.NAME]`",
    "`--listen-port`": "`--listen-port`, or the port of `[proxy] listen`",
    "`--host`": "`--host`, or the host of `[proxy] listen`; beyond loopback clients must show a key",
    "`--upstream-timeout-secs`": "`--upstream-timeout-secs`, or `[proxy] upstream_timeout`",
    "`--model-ready-timeout-secs`": "`--model-ready-timeout-secs`, or `start_timeout`",
    "`--model-switch-timeout-secs`": "`--model-switch-timeout-secs`, or `switch_timeout`",
    "`--log-dir`": "`--log-dir`, or `[muxd] log_dir`",
    "`MODEL_NAME=`, `PORT=` in a script": "read there; `served_names`, `port` where a table has the script",
}

_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]")


@dataclass(frozen=True, slots=True)
class SglangmuxArgs:
    """What the command line says.  `None`: the configuration, or muxd's own default.  Times are seconds."""

    scripts: tuple[Path, ...] = ()
    host: str | None = None
    listen_port: int | None = None
    upstream_timeout: float | None = None
    start_timeout: float | None = None
    switch_timeout: float | None = None
    log_dir: Path | None = None
    allow_anonymous: bool | None = None

    @property
    def stands_alone(self) -> bool:
        return bool(self.scripts)

    def join(self, sources: Sequence[Source], problems: Problems) -> list[Source]:
        """Return the scripts as models after those of `sources`: loaded once each, in order, run from this folder."""
        if self.host is not None:
            problems.also(Source(Path("the command line"), {"--host": self.host}, {}))
        taken = {name: shown_model(source) for source in sources for name in _models(source)}
        added = []
        for script in self.scripts:
            path = Path(os.path.abspath(script))
            name = model_name(path)
            if not MODEL_NAME.fullmatch(name):
                self._refuse(name, path, "has a name that makes none for a model; rename it", problems)
            elif name in taken:
                text = f"would be model {name}, as {taken[name]} is; rename one of the files"
                self._refuse(name, path, text, problems)
            else:
                taken[name] = shown_script(path)
                table = {"script": str(path), "preload": True, "cwd": os.getcwd()}
                source = Source(Path(shown_script(path)), {"models": {name: table}}, {("models", name): 1})
                problems.also(source)
                added.append(source)
        return added

    def _refuse(self, name: str, path: Path, text: str, problems: Problems) -> None:
        (source,) = blamed(name, {(): Place(shown_script(path), 0)})
        problems.add(("models", name), f"{shown_script(path)} {text}", source)

    def amend(self, config: Config) -> Config:
        """Put the flags over everything; the scripts' models share their GPUs, so that one is awake."""
        scripts = {model_name(path) for path in self.scripts}
        models = tuple(_joint(model) if model.name in scripts else model for model in config.models)
        return replace(
            config,
            daemon=replace(config.daemon, **_given(log_dir=self.log_dir and Path(os.path.abspath(self.log_dir)))),
            proxy=replace(
                config.proxy,
                listen=config.proxy.listen._replace(**_given(host=self.host, port=self.listen_port)),
                **_given(
                    upstream_timeout=self.upstream_timeout,
                    allow_anonymous=self.allow_anonymous,
                ),
            ),
            models=tuple(self._timed(model) for model in models),
        )

    def _timed(self, model: Model) -> Model:
        return replace(model, **_given(start_timeout=self.start_timeout, switch_timeout=self.switch_timeout))


def _joint(model: Model) -> Model:
    return replace(model, script=replace(model.script, joint=True)) if model.script is not None else model


def model_name(script: Path) -> str:
    """Return the name of the file without its ending, as far as a model can have it."""
    return _NOT_IN_NAMES.sub("-", script.stem.lower()).lstrip("._-")


def shown_model(source: Source) -> str:
    return f"a model in {source.file}"


def _models(source: Source) -> list[str]:
    models = source.table.get("models")
    return list(models) if isinstance(models, dict) else []


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
