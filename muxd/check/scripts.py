"""Faults that the text of a launch script shows before it runs: syntax errors, other engines, missing files."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from muxd.config.command_lines import MODEL, server_at
from muxd.config.flags import Word, flag
from muxd.config.lines import KeyPath
from muxd.config.model_schema import Model, Script
from muxd.config.schema import Config
from muxd.host.bounded import NoAnswer, within
from muxd.importers.bash_syntax import Place
from muxd.importers.plain_reader import PlainReader

from .report import ReportLine, wrong

#: Seconds for bash to read a script.
PATIENCE = 10.0

_COMMENT = re.compile(r"(?m)(^|\s)#.*$")
_ACTIVATES = re.compile(r"(.+)/bin/activate")

# Commands after which a script's programs are not those that are found here.
_OTHER_PATH = re.compile(r"\b(conda|mamba|micromamba|module|eval|pixi|poetry|alias)\b")

# Commands whose programs are not those that are found here, or see other files.
_ELSEWHERE = re.compile(r"\b(uv|docker|podman|nerdctl|apptainer|singularity|enroot|srun|ssh|chroot|nsenter)\b")

# Commands that make a file or a folder.
_MAKING = r"(?:>|\b(?:mkdir|tee|cp|mv|ln|clone|curl|wget|install)\b)"

# What makes a missing file or folder a matter of course.
_TOLERATED = re.compile(r"\|\|(?![ \t]*(?:exit|return|die|\{|\())")

#: A complaint of bash; before the line it names the script by the path that it was given.
_COMPLAINT = re.compile(r"line (\d+): (.+)")


#: Names that people give to folders of models, and that no publisher at the Hub has.
FOLDERS = frozenset(
    (
        *("models", "model", "checkpoints", "checkpoint", "ckpt", "ckpts", "weights", "llm", "llms", "pretrained"),
        *("data", "mnt", "home", "srv", "opt", "root", "tmp", "var", "usr", "nfs", "share", "shared", "storage"),
        *("disk", "ssd", "nvme", "workspace", "work", "local", "hub", "cache", "output", "outputs", "merged"),
    )
)


class Text:
    """The text of a model's launch script; empty if it cannot be read, which the configuration's reader reports."""

    def __init__(self, model: Model, script: Script, environ: Mapping[str, str]) -> None:
        self._environ, self._model, self._script = environ, model, script
        self.path = Path(script.argv[1])
        try:
            self._full_text = within(self.path.read_bytes).decode(errors="replace")
        except NoAnswer:
            self._full_text = ""
        self._code = _COMMENT.sub(lambda found: found[1], self._full_text.replace("\\\n", " \n"))

    def at_line(self, line: int) -> str:
        """Return FILE:LINE, with a relative path if the script is below the working directory."""
        near = os.path.relpath(self.path)
        return f"{self.path if near.startswith('..') else near}:{line}"

    def _location(self, at: int) -> str:
        return self.at_line(self._code.count("\n", 0, at) + 1)

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yield a complaint and FILE:LINE for each file that the script needs and that does not exist."""
        shell = self._full_text.removeprefix("#!").split("\n", 1)[0].split() if self._full_text.startswith("#!") else []
        if shell and shell[0].startswith("/") and not os.path.exists(shell[0]):
            fault = f"its first line names {shell[0]}, which is not there; muxd runs it with bash all the same"
            yield f"{fault}: correct the line", self._location(0)
        for path, place in self._reader.needed:
            line = self._full_text.splitlines()[place.line - 1]
            made = re.search(rf"{_MAKING}.*{re.escape(os.path.basename(path))}", self._code)
            if not (os.path.exists(path) or made or _TOLERATED.search(line)):
                near = os.path.relpath(path)
                what = f"{path if near.startswith('..') else near} is {self._use(line)}, and is not there"
                yield f"{what}; correct the script", str(place)
        for program, place in self._absent_programs():
            yield f"{program} is not found in PATH; correct the script, or PATH in the model's env", str(place)

    @staticmethod
    def _use(line: str) -> str:
        return "where the script goes with `cd`" if re.search(r"\b(cd|pushd)\b", line) else "read by `source`"

    @cached_property
    def _reader(self) -> PlainReader:
        near = os.path.relpath(self.path)
        shown = str(self.path) if near.startswith("..") else near
        environ, folder = {**self._environ, **self._script.env}, self._model.cwd or Path("/")
        reader = PlainReader.at_start(shown, environ, folder, self._script.argv[2:])
        reader.read(self._full_text)
        return reader

    def _search_path(self) -> str | None:
        """Return the PATH in which the script's programs are found; None if the text does not tell."""
        needed, plain = [path for path, _ in self._reader.needed], self._reader.set_to("PATH")
        sourced = [path for path in needed if os.path.isfile(path)]
        if _OTHER_PATH.search(self._code) or len(sourced) != len(re.findall(r"(?m)^\s*(?:source|\.)\s", self._code)):
            return None
        if re.search(r"\bPATH=", self._code):
            return plain if isinstance(plain, str) and not sourced else None
        search = self._environ.get("PATH", os.defpath)
        for path in sourced:
            activated = _ACTIVATES.fullmatch(path)
            if activated is None:
                return None
            search = f"{activated[1]}/bin:{search}"
        return search

    def _absent_programs(self) -> Iterator[tuple[str, Place]]:
        """Yield the server's program where that is surely not in PATH."""
        server = self._reader.candidates[-1] if self._reader.candidates else None
        first, search = server.words[0] if server is not None else "", self._search_path()
        is_name = isinstance(first, str) and first and "/" not in first
        if server is not None and is_name and search is not None and not self._has(str(first), search):
            yield str(first), server.place

    @staticmethod
    def _has(program: str, search: str) -> bool:
        return shutil.which(program, path=search) is not None

    def python(self, program: str) -> str | None:
        """Return the interpreter that the name of a program means in the script; None if the text does not tell."""
        search = None if _ELSEWHERE.search(self._code) else self._search_path()
        return shutil.which(program, path=search) if search is not None else None

    def flags(self) -> list[str] | None:
        """Return the flags of the one server that the script starts; None if not all of them are written plainly."""
        if len(self._reader.candidates) != 1 or self._reader.dark:
            return None
        words = self._reader.candidates[0].words
        flags = words[server_at(words) :]
        texts = [word for word in flags if isinstance(word, str)]
        return texts if len(texts) == len(flags) and texts[:1] and texts[0].startswith("-") else None

    def model_path(self) -> tuple[str, str] | None:
        """Return the folder that the script serves a model from, and FILE:LINE; None unless it names exactly one."""
        if len(self._reader.candidates) != 1 or self._reader.dark or _ELSEWHERE.search(self._code):
            return None
        (server,) = self._reader.candidates
        path, folder = flag(server.words, MODEL), self._reader.folder
        if not isinstance(path, str) or not (path.startswith(("/", "./", "../")) or _is_local(path, folder)):
            return None
        if not path.startswith("/") and not isinstance(folder, str):
            return None
        return os.path.normpath(os.path.join(str(folder), path)), self._place_of(server.place)

    def _place_of(self, place: Place) -> str:
        """Return FILE:LINE of the model's flag in a command that begins at that place."""
        lines = self._full_text.splitlines()
        found = (number for number in range(place.line, len(lines) + 1) if "--model" in lines[number - 1])
        return self.at_line(next(found, place.line))


def _is_local(path: str, folder: Word) -> bool:
    """Say whether what could be a Hub id is a path: something is there, or nobody at the Hub could have it."""
    return isinstance(folder, str) and (
        os.path.exists(os.path.join(folder, path)) or path.count("/") > 1 or path.split("/")[0] in FOLDERS
    )


def script_lines(
    config: Config, problems: Iterable[tuple[KeyPath, str]], environ: Mapping[str, str]
) -> tuple[list[tuple[KeyPath, str]], list[ReportLine]]:
    """Return the problems of a configuration, and the lines of the report on faults of its launch scripts.

    Problems that only follow from such a fault, a syntax error or another engine, are left out.
    """
    kept, lines = list(problems), []
    for model in config.models:
        if model.script is None or not model.script.argv or ("models", model.name, "script") in dict(kept):
            continue
        text = Text(model, model.script, {**environ, **model.env})
        own = [entry for entry in kept if entry[0][:2] == ("models", model.name) and _is_about(entry[1], text.path)]
        if error := _syntax_error(model.script.argv[0], text.path, environ):
            remedy = f"correct the script; bash -n {text.path} tells the same"
            fault = f"a syntax error to bash: {error[1].removeprefix('syntax error: ')}; {remedy}"
            lines.append(wrong(model.name, fault, text.at_line(error[0])))
            kept = [entry for entry in kept if entry not in own]
    return kept, lines


def _is_about(text: str, script: Path) -> bool:
    """Say whether a problem is one of the script: its text begins with the file's name."""
    return any(text.startswith(f"{name}:") for name in (str(script), os.path.relpath(script)))


def _syntax_error(bash: str, script: Path, environ: Mapping[str, str]) -> tuple[int, str] | None:
    """Return the line and the words with which bash refuses a script, or None; bash reads it and runs nothing."""
    quiet = {name: value for name, value in environ.items() if name not in ("BASH_ENV", "ENV")}
    try:
        checked = subprocess.run(
            [bash, "-n", str(script)],
            env={**quiet, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _COMPLAINT.search(checked.stderr.decode(errors="replace"))
    return (int(found[1]), found[2]) if checked.returncode and found else None
