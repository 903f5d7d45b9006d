"""The verb: read the files as muxd does, then check them against this machine."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from muxd.config.default_paths import find_config
from muxd.config.folders import writable_by_others
from muxd.config.lines import KeyPath
from muxd.config.load import TABLES, ConfigOverlay, read_config
from muxd.config.problems import Problems, shown_file
from muxd.config.schema import Config
from muxd.errors import ConfigError
from muxd.host.bounded import NoAnswer, within
from muxd.host.hardware import ReadGpus, read_gpus

from .machine import HostCheck, HostReadings, core_lines, folder_lines, interpreter_lines, port_lines
from .models import model_lines, named_otherwise, never_fits, pinned_lines, ram_lines
from .report import OK, WARN, WRONG, ReportLine, ok, table, warn, wrong
from .routers import router_lines
from .scripts import script_lines

PROBLEMS = 2

#: Of more models than that, only those are listed that are not as they should be.
MOST_LISTED = 50


def check(
    path: Path | None,
    environ: Mapping[str, str],
    added: ConfigOverlay | None = None,
    *,
    strict: bool = False,
    host: bool = True,
    gpus: ReadGpus | None = None,
) -> int:
    """Print the report on stdout; return 2 if any line of it is WRONG or, with `strict`, is `warn`; else 0.

    Without `host`, only the files are checked.  Files that cannot be read at all are reported on stderr.
    """
    try:
        overlay_stands_alone = path is None and added is not None and added.stands_alone
        found = None if overlay_stands_alone else find_config(path, environ)
        config, problems = read_config(found, environ, added, host=host)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return PROBLEMS
    lines = _lines(config, problems, environ, gpus or read_gpus if host else None)
    print(_head(found, config))
    for line in table(_sorted(lines, config)):
        print(line)
    marks = {line.mark for line in lines}
    return PROBLEMS if WRONG in marks or (strict and WARN in marks) else 0


def _lines(config: Config, problems: Problems, environ: Mapping[str, str], gpus: ReadGpus | None) -> list[ReportLine]:
    """Return the lines of the report; without `gpus`, of the files alone."""
    told, lines = script_lines(config, problems.told(), environ)
    lines += [wrong(_subject(key), text) for key, text in told]
    broken = {key[1] for key, _ in problems.told() if key[0] == "models" and len(key) > 1}
    broken |= {line.subject for line in lines if line.mark == WRONG}
    without_engine: set[str] = set()
    if gpus is not None:
        machine = HostCheck(config, environ, problems, frozenset(broken), HostReadings(gpus))
        lines += [
            *interpreter_lines(machine),
            *router_lines(machine),
            *machine.gpu_lines(),
            *ram_lines(machine),
            *pinned_lines(machine),
        ]
        lines += [line for model in machine.models for line in model_lines(machine, model)]
        lines += [*core_lines(machine), *port_lines(machine), *folder_lines(machine)]
        without_engine = machine.without_engine
    else:
        lines += [
            line for model in config.models if model.name not in broken for line in never_fits(model, config, problems)
        ]
    with suppress(NoAnswer):
        lines += [wrong("files", told) for told in within(lambda: writable_by_others(config))]
    lines += named_otherwise(config, problems)
    lines += [warn("GPUs", remark) for remark in config.remarks]
    lines += [warn("import", remark) for remark in config.import_remarks]
    for model, script in ((model, model.script) for model in config.models if model.script is not None):
        lines += [warn(model.name, remark) for remark in script.remarks]
    lines += _file_lines(config, problems)
    return _condensed(_without_contradictions(lines, config, without_engine), config)


def _without_contradictions(lines: list[ReportLine], config: Config, without_engine: set[str]) -> list[ReportLine]:
    """Return the lines without an `ok` for what another line complains of: a model, its interpreter, the socket."""
    bad = {line.subject for line in lines if line.mark != OK} & {"socket", *(model.name for model in config.models)}
    bad |= without_engine
    return [line for line in lines if line.mark != OK or line.subject not in bad]


def _condensed(lines: list[ReportLine], config: Config) -> list[ReportLine]:
    """Return the lines with one in the place of those on models that are as they should be, where they are many."""
    names = {model.name for model in config.models}
    good = [line for line in lines if line.mark == OK and line.subject in names]
    if len(good) <= MOST_LISTED:
        return lines
    count = len({line.subject for line in good})
    return [
        *(line for line in lines if line.mark != OK or line.subject not in names),
        ok("models", f"{count} are as they should be"),
    ]


def _sorted(lines: list[ReportLine], config: Config) -> list[ReportLine]:
    """Return first the lines on what all models need, then the models' in the order of the files, then the rest."""
    order = [*TABLES, "python", "GPUs", "RAM", *(model.name for model in config.models)]
    places = {subject: place for place, subject in reversed(list(enumerate(order)))}
    return sorted(lines, key=lambda line: places.get(line.subject, len(order)))


def _subject(key: KeyPath) -> str:
    return key[1] if key[0] == "models" and len(key) > 1 else key[0]


def _head(found: Path | None, config: Config) -> str:
    count = len(config.models)
    host = f"[{config.proxy.host}]" if ":" in config.proxy.host else config.proxy.host
    what = f"{count or 'no'} model{'s' if count != 1 else ''}, proxy {host}:{config.proxy.port}"
    return f"{shown_file(found)}: {what}" if found is not None else what


def _file_lines(config: Config, problems: Problems) -> list[ReportLine]:
    """Return lines on the files that were merged into the first one, and on the socket."""
    merged = [ok("files", f"{shown_file(file)}: merged into it") for file in config.files[1:]]
    told = [ok("socket", shown_file(config.daemon.socket))] if ("muxd", "socket") not in problems.paths() else []
    return [*merged, *told]
