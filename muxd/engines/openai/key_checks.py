"""Checks of a model's keys for a server that a command starts."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from os.path import basename

from muxd.config.engine_options import OpenAIOptions
from muxd.config.findings import SHELL_VARIABLE, Finding
from muxd.config.model_schema import Model
from muxd.config.names import did_you_mean
from muxd.config.server_commands import BRACE, OF_RUNNING_SERVER, OF_SERVER, placeholders_in

#: The routes of OpenAI's API, and those that its imitators have beside them (llama.cpp, Ollama, TEI, vLLM).  A server
#: answers 404 by itself on those that it has not.
ROUTES = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/{id}",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/moderations",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
        "/v1/classify",
        "/v1/models",
        "/api/chat",
        "/api/generate",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
        "/metrics",
        "/ping",
    )
)

#: Programs that expand variables in their arguments, or have a shell do so.
EXPANDING = ("sh", "bash", "dash", "zsh", "ash", "ksh", "fish", "ssh", "su", "runuser", "systemd-run")

_PORT_FLAGS = ("--port", "-p", "--http-port", "--http_port")
_HOST_AND_PORT = re.compile(r"(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]):(\d{1,5})")


def findings(model: Model, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with a model that a command serves; see `EngineKind.findings`."""
    options = model.engine_options
    if not isinstance(options, OpenAIOptions):
        return
    if model.args:
        yield ("args",), "nothing is added to a command; write them into it, and leave this out"
    if not options.command:
        yield ("command",), 'missing; write the server\'s command, as ["llama-server", "--port", "{port}"]'
        return
    yield from _port(model, options)
    yield from _words(("command",), options.command, OF_SERVER, model, environ)
    after_start = {**OF_SERVER, "pid": OF_RUNNING_SERVER["pid"]}
    yield from _words(("stop_command",), options.stop_command, after_start, model, environ)
    for key, steps in (("sleep", options.sleep), ("wake", options.wake)):
        for step in steps:
            yield from _words((key,), step.command, OF_RUNNING_SERVER, model, environ)
    for route in options.routes:
        if route not in ROUTES:
            yield ("routes",), f"{route} is no route that muxd passes on; {did_you_mean(route, sorted(ROUTES))}"
    if options.sleep and not options.wake:
        yield ("sleep",), "nothing would wake it again; write wake as well, or leave this out"
    if options.wake and not options.sleep:
        yield ("wake",), "nothing puts it to sleep; write sleep as well, or leave this out"
    if model.sleep_level in (1, 2) and not options.sleep:
        text = f"level {model.sleep_level} takes steps, sleep and wake, which are not there; write them"
        yield ("sleep_level",), f"{text}, or leave this out: its process ends instead (level 3)"
    if model.sleep_level == 3 and options.sleep:
        yield ("sleep_level",), "its process ends at level 3, and sleep and wake are never used; use 1 or 2"


def _words(
    key: tuple[str], words: Sequence[str], known: Mapping[str, str], model: Model, environ: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Yield what is wrong with one command."""
    if not words:
        return
    for name in dict.fromkeys(placeholders_in(words)):
        if name not in known:
            later = "; the server does not run yet then" if name in OF_RUNNING_SERVER else ""
            text = f"{{{name}}} is no placeholder here{later}; {did_you_mean(name, known)}"
            yield key, f"{text} (a brace that is to stay as it is: {{{BRACE}}}{name}}})"
        elif name == "model_path" and not model.model_path:
            yield key, "{model_path} stands for the key model_path, which is not there; write it"
    plain = takewhile(lambda word: basename(word) not in EXPANDING, words)  # before a shell, as in env A=b sh -c ...
    if (wanted := next(filter(None, map(SHELL_VARIABLE.search, plain)), None)) is not None:
        yield key, f"{wanted[0]} would be taken literally, no shell is involved; write the value"
    if environ is not None and not shutil.which(words[0], path=model.env.get("PATH", environ.get("PATH"))):
        yield key, f"{words[0]} is not an executable that can be found; install it, or give its path"


def _port(model: Model, options: OpenAIOptions) -> Iterator[Finding]:
    """Yield what is wrong with the port, where the command does not ask for muxd's."""
    if "port" in placeholders_in(options.command):
        return
    said = _port_in(options.command)
    if said is None and not model.port:
        text = "nothing tells the server on which port muxd expects it"
        yield ("command",), f'{text}; write "--port", "{{port}}", or say with port where it listens'
    elif said is not None and not model.port:
        text = f"the server is told port {said}, and muxd expects it on one that is free"
        yield ("command",), f"{text}; write {{port}} in the place of {said}, or port = {said} into the table"
    elif said is not None and said != model.port:
        text = f"the server is told port {said}, and port says {model.port}"
        yield ("command",), f"{text}; write {{port}} in the place of {said}, or port = {said}"


def _port_in(words: Sequence[str]) -> int | None:
    """Return the port that a command names in plain sight; None where it names none."""
    before = ""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in _PORT_FLAGS and value.isdigit():
            return int(value)
        if before in _PORT_FLAGS and word.isdigit():
            return int(word)
        if (match := _HOST_AND_PORT.search(word)) is not None:
            return int(match[1])
        before = word
    return None
