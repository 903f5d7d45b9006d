"""What muxd can run of a launch script, and its operator should know: kills of what may be anybody's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Set
from contextlib import suppress

from muxd.config.flags import flag

from .bash_syntax import Place
from .plain_reader import PlainReader

#: What processes of an SGLang server are called: a pattern that is found here finds the servers of other models, too.
_SERVER_NAMES = "python3 -m sglang.launch_server --model-path / --served-model-name --port --host sglang::scheduler_TP0"

#: Commands that look for processes by a name, or end them so, with what stands behind.
_BY_NAME = re.compile(
    r"\b(pkill|killall|skill|pgrep|pidof|[ef]?grep|awk)\b((?:\s+(?:\"[^\"]*\"|'[^']*'|[^\s;|&)`\"']+))*)"
)
_ENDERS = ("pkill", "killall", "skill")
_WORD = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^\s\"']+)")
_OWN_CHILDREN = re.compile(r"(?:-P|--parent)[ =]?\"?\$[$!{A-Z]")

#: A kill of what a substitution or a pipe finds, and the variables that are set to what a line finds.
_KILLS_FOUND = re.compile(r"\bxargs\b[^|;&]*\bkill\b|\bkill\b[^;|&]*(?:\$\(|`)")
_SET_TO_FOUND = re.compile(r"\b(\w+)(?:=|\s+in\s+)\(?[\"']?(?:\$\(|`)|\bread\s+(?:-r\s+)?(\w+)")

#: Ways to end what is nobody's in particular: all processes, all containers, all of Ray, whoever uses a GPU.
_ENDS_ALL = re.compile(
    r"\bkill(?:\s+(?:-(?!0\b)\S+|[A-Z]+))+\s+-1\s*(?:$|[;|&)'\"])|\bkill\b.*\bnvidia-smi\b.*\bpid\b|\bnvidia-smi\b.*\bpid\b.*\bkill\b"
    r"|\bfuser\b(?=.*\s-\w*k)(?=.*/dev/nvidia)|\blsof\b.*/dev/nvidia.*\bkill\b|\bkill\b.*\blsof\b.*/dev/nvidia"
    r"|\b(?:docker|podman)\s+(?:rm|kill|stop)\b.*\b(?:docker|podman)\s+(?:ps|container\s+ls)(?!.*(?:\s-\w*f\b|--filter))"
    r"|\b(?:docker|podman)\s+ps\b(?!.*(?:\s-\w*f\b|--filter)).*\bxargs\b.*\b(?:docker|podman)\s+(?:rm|kill|stop)\b"
    r"|\bray\s+stop\b|\b(?:pkill|killall)\b(?:\s+-\w+)*\s+-[uU]\s*\S+\s*(?:$|[;|&)'\"])"
)

#: A kill of whoever has a port.
_FREES_PORT = re.compile(
    r"\bfuser\b(?=.*\s-\w*k).*?\b(\d+)/tcp|\blsof\b.*?:(\d+)\b(?=.*\bkill\b)|\bkill\b.*\blsof\b.*?:(\d+)\b"
)
_SHOWN = re.compile(r"\s*(?:#|echo\b|printf\b)")


def remarks(text: str, reader: PlainReader) -> Iterator[str]:
    """Yield a kill of what may be anybody's, wherever it stands: a trap or a function is carried out later."""
    whole = re.sub(r"\\\n", "  ", text)  # a continued line is one, and every character stays at its place
    own = {flag(candidate.words, ("--port",)) for candidate in reader.candidates}
    start, found = 0, set[str]()
    for line in whole.splitlines(keepends=True):
        if not _SHOWN.match(line) and (fault := _fault_of_kill(line, found, own)):
            at = start + next((match.start() for match in _BY_NAME.finditer(line) if _is_broad(match[2])), 0)
            place = Place(reader.place.file, whole.count("\n", 0, start) + text.count("\\\n", 0, at) + 1)
            yield f"{place} {fault}; take it out: muxd ends what its script has started"
            return
        start += len(line)


def _fault_of_kill(line: str, found: set[str], own_ports: Set[object]) -> str:
    """Return what a line ends that may be anybody's; "" where it ends nothing, or only its own.

    `found` has the variables that lines before this one have set to processes by their names, and gets those of this.
    """
    by_name = (
        [] if _OWN_CHILDREN.search(line) else [match[1] for match in _BY_NAME.finditer(line) if _is_broad(match[2])]
    )
    found |= {name for match in _SET_TO_FOUND.finditer(line) if by_name for name in match.groups() if name}
    kills = re.search(r"\bkill\b.*", line)
    named = re.findall(r"\$\{?(\w+)", kills[0]) if kills else []
    is_found = by_name and (not {*_ENDERS}.isdisjoint(by_name) or _KILLS_FOUND.search(line))
    if is_found or _ENDS_ALL.search(line) or not found.isdisjoint(named):
        return "ends all processes of that kind on this host, the servers of other models among them"
    port = _FREES_PORT.search(line)
    number = next(filter(None, port.groups())) if port is not None else ""
    return (
        f"ends whoever has port {number}, which may be another model's server"
        if number and number not in own_ports
        else ""
    )


def _is_broad(words: str) -> bool:
    """Say whether the arguments of a search by name have a pattern that finds any SGLang server."""
    for quoted in _WORD.findall(words):
        pattern = "".join(quoted)
        if (inner := re.search(r"/([^/]+)/", pattern)) is not None:  # awk's
            pattern = inner[1]
        if pattern[:1] not in ("-", "$", "{", "") and len(pattern) > 2:
            with suppress(re.error), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a pattern of grep's own, such as [[:space:]]
                if re.search(pattern, _SERVER_NAMES):
                    return True
    return False
