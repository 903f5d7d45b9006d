"""`muxd init`: find models, GPUs and SGLang, write the file, read it as muxd would, and print what is left to do."""

import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from muxd.config import load_config
from muxd.config.default_paths import config_candidates
from muxd.config.new_file import place, refuse_if_taken
from muxd.config.problems import shown_file
from muxd.engines.engine_packages import Interpreter
from muxd.engines.sglang.interpreters import find_sglang
from muxd.errors import ConfigError
from muxd.gpus import GpuMemory
from muxd.host.hardware import ReadGpus, read_gpus
from muxd.host.model_kinds import ModelKind
from muxd.host.search import Finding, FoundModel, Skipped, hub_cache, in_cache, in_folder

from .draft import Draft, GiB, drafts
from .toml_text import text_of


@dataclass(frozen=True, slots=True)
class HostFindings:
    """GPUs, SGLang and models found on this machine."""

    gpus: Sequence[GpuMemory]
    no_gpus: str  # why `gpus` is empty
    sglang: Interpreter | None
    asked: Sequence[str]  # interpreters that were asked for SGLang
    cache: Path
    found: Sequence[FoundModel]
    skipped: Sequence[Skipped]


def init(options: Namespace, environ: Mapping[str, str], gpus: ReadGpus | None = None) -> int:
    """Run `muxd init`; return 0 once the file is written, even if something is left for the user to do.

    Raise MuxdError where nothing was written.
    """
    if not options.print:
        refuse_if_taken(options.output, force=options.force)
    machine = look_around(options.models, environ, gpus or read_gpus)
    models = drafts(machine.found, machine.gpus)
    text = _text(machine, models, environ)
    report = sys.stderr if options.print else sys.stdout
    _print_lines(_findings_report(machine, models), report)
    if options.print:
        sys.stdout.write(text)
        return 0
    place(options.output, text, force=options.force)
    _print_lines(_report_after(options.output, machine, models, environ), report)
    return 0


def look_around(folders: Sequence[Path], environ: Mapping[str, str], gpus: ReadGpus) -> HostFindings:
    """Find the machine's GPUs, SGLang and models, in the Hub's cache and in `folders`.

    Raise ConfigError where one of `folders` is no folder.
    """
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        raise ConfigError([f"{shown_file(path)}: no such folder; correct what --models names" for path in missing])
    known, no_gpus = gpus()
    sglang, asked = find_sglang(environ)
    cache = hub_cache(environ)
    findings: list[Finding] = in_cache(cache)
    for folder in folders:
        findings += in_folder(folder)
    found = [finding for finding in findings if isinstance(finding, FoundModel)]
    skipped = dict.fromkeys(finding for finding in findings if isinstance(finding, Skipped))
    return HostFindings(known, no_gpus, sglang, asked, cache, found, list(skipped))


def _text(machine: HostFindings, models: Sequence[Draft], environ: Mapping[str, str]) -> str:
    by_id = any(model.found.model_path == model.found.label for model in models)
    python = None if shutil.which("python3", path=environ.get("PATH")) else sys.executable
    return text_of(models, machine.sglang, python, machine.cache if by_id else None)


def _print_lines(lines: Iterator[str], stream: IO[str]) -> None:
    for line in lines:
        print(line.encode(errors="backslashreplace").decode(), file=stream)


def _findings_report(machine: HostFindings, models: Sequence[Draft]) -> Iterator[str]:
    yield from _gpus(machine)
    if machine.sglang is not None:
        yield f"SGLang {machine.sglang.version}: {machine.sglang.path}"
    else:
        yield f"no SGLang; asked {', '.join(machine.asked) or 'no interpreter: there is none in $PATH'}"
    yield f"{_count(len(models), 'model')} to serve; the cache of the Hub is {_cache(machine.cache)}"
    width = max((len(model.name) for model in models), default=0)
    for model in models:
        where = f"GPU {', '.join(model.gpus)}" + ("" if model.fits else ", which is too small for it")
        yield f"  {model.name:{width}}  {model.weights} GiB on {where}  {model.found.model_path}"
    if machine.skipped:
        yield f"{len(machine.skipped)} skipped:"
        yield from (f"  {_printable(skipped.label)}: {_printable(skipped.reason)}" for skipped in machine.skipped)


def _gpus(machine: HostFindings) -> Iterator[str]:
    if not machine.gpus:
        yield f"no GPU: {machine.no_gpus}; gpus = [0] is written, correct it where that is wrong"
    for gpu in machine.gpus:
        yield f"GPU {gpu.id}: {gpu.name}, {gpu.total / GiB:.0f} GiB"


def _cache(cache: Path) -> str:
    return str(cache) if os.path.isdir(cache) else f"{cache}, where no folder is to be seen"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _printable(text: str) -> str:
    """Return `text` with "?" for each unprintable character: names of folders and of architectures can be anything."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _report_after(
    output: Path, machine: HostFindings, models: Sequence[Draft], environ: Mapping[str, str]
) -> Iterator[str]:
    yield f"wrote {output}"
    if left := list(_tasks_left(output, machine, models, environ)):
        yield "still to do:"
        yield from (f"  {line}" for line in left)
    config = "" if output.absolute() in config_candidates(environ) else f" --config {shlex.quote(str(output))}"
    yield "then:" if left else "next:"
    yield f"  muxd check{config}"
    yield f"  muxd start{config}"
    if name := next((model.name for model in models if model.found.kind is ModelKind.GENERATION), None):
        body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
        yield f"  curl http://127.0.0.1:30100/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def _tasks_left(
    output: Path, machine: HostFindings, models: Sequence[Draft], environ: Mapping[str, str]
) -> Iterator[str]:
    try:
        load_config(output, environ)
    except ConfigError as error:
        yield from error.problems
    if machine.sglang is None:
        yield f"{output}: defaults.python: give the path of an interpreter that has SGLang,"
        yield "  or activate its environment and let `muxd init --force` find it"
    for model in models:
        if not model.fits:
            yield f"{output}: models.{model.name}: {model.weights} GiB of weights do not fit on the GPUs; remove it"
