"""Faults that the text of a launch script shows before it runs: syntax errors, other engines, missing files."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from muxd.config.default_paths import home
from muxd.config.lines import KeyPath
from muxd.config.schema import Config, Model, Script
from muxd.host.bounded import NoAnswer, within

from .report import ReportLine, wrong

#: Seconds for bash to read a script.
PATIENCE = 10.0

_COMMENT = re.compile(r"(?m)(^|\s)#.*$")
_SGLANG = re.compile(r"(?i)sglang")
_OTHER_ENGINE = re.compile(
    r"(?m)^(?!\s*(?:echo|printf|pip)\b).*?(?:^|[\s/;&|=\"'])"
    r"(vllm(?=[\s/.:]|$)|llama-server|ollama(?=\s+(?:serve|run))|text-generation-launcher|lmdeploy(?=\s+serve)"
    r"|tritonserver|trtllm-serve)"
)
_SOURCED = re.compile(r"""(?m)^[ \t]*(?:source|\.)[ \t]+(["']?)([^\s"'`;&|<>*?()]+)\1[ \t]*$""")
_ACTIVATES = re.compile(r"(.+)/bin/activate")
_MODEL_PATH = re.compile(r"""--model(?:-path)?(?:=|\s+)(["']?)(/[^\s"'`$;&|]+)\1(?=\s|$)""")

# Commands after which a script's programs are not those that are found here, or see other files.
_ELSEWHERE = re.compile(
    r"\bPATH=|\b(conda|mamba|module|eval|uv|pixi|poetry|alias|docker|podman|nerdctl|apptainer|singularity|enroot|srun"
    r"|ssh|chroot|nsenter|cd)\b"
)

#: A complaint of bash; before the line it names the script by the path that it was given.
_COMPLAINT = re.compile(r"line (\d+): (.+)")


class Text:
    """The text of a model's launch script; empty if it cannot be read, which the configuration's reader reports."""

    def __init__(self, model: Model, script: Script, environ: Mapping[str, str]) -> None:
        self._environ, self._model = environ, model
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

    def other_engine(self) -> tuple[str, str] | None:
        """Return the name and FILE:LINE of another engine that the script starts; None if it mentions SGLang."""
        found = None if _SGLANG.search(self._code) else _OTHER_ENGINE.search(self._code)
        return (found[1], self._location(found.start(1))) if found else None

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yield a complaint and FILE:LINE for each file that the script needs and that does not exist."""
        shell = self._full_text.removeprefix("#!").split("\n", 1)[0].split() if self._full_text.startswith("#!") else []
        if shell and shell[0].startswith("/") and not os.path.exists(shell[0]):
            fault = f"its first line names {shell[0]}, which is not there; muxd runs it with bash all the same"
            yield f"{fault}: correct the line", self._location(0)
        for path, at in self._sourced:
            if not os.path.exists(path):
                yield f"{path} is read by `source`, and is not there; correct the script", self._location(at)

    @cached_property
    def _sourced(self) -> list[tuple[str, int]]:
        """Return the paths that the script sources, with their offsets in the text.

        Paths with variables, and paths whose existence the script itself tests, are left out.
        """
        found = []
        for match in _SOURCED.finditer(self._code):
            path = re.sub(r"^(~|\$HOME|\$\{HOME\})(?=/)", str(home(self._environ)), match[2])
            looked_for = re.search(rf"-[a-z]\s+[\"']?{re.escape(match[2])}", self._code)
            if "$" not in path and "/" in path and not looked_for:
                found.append((os.path.normpath(os.path.join(self._model.cwd or "/", path)), match.start(2)))
        return found

    def python(self, program: str) -> str | None:
        """Return the interpreter that the name of a program means in the script; None if the text does not tell."""
        if _ELSEWHERE.search(self._code):
            return None
        search = self._environ.get("PATH")
        for path, _ in self._sourced:
            activated = _ACTIVATES.fullmatch(path)
            if activated is None or not os.path.exists(path):
                return None
            search = f"{activated[1]}/bin"
        if not self._sourced and re.search(r"(?m)^\s*(source|\.)\s", self._code):
            return None
        return shutil.which(program, path=search)

    def model_path(self) -> tuple[str, str] | None:
        """Return the folder that the script serves a model from, and FILE:LINE; None unless it names exactly one."""
        found = [] if _ELSEWHERE.search(self._code) else list(_MODEL_PATH.finditer(self._code))
        return (found[0][2], self._location(found[0].start(2))) if len(found) == 1 else None


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
        elif engine := text.other_engine():
            advice = "have the script start python -m sglang.launch_server"
            lines.append(wrong(model.name, f"{engine[0]} is not SGLang, which muxd runs; {advice}", engine[1]))
        else:
            continue
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
