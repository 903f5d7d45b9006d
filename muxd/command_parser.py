"""The parser of the command line of `muxd`: a wrong one is answered with what was probably meant."""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn


class CommandParser(ArgumentParser):
    """An argument parser whose errors suggest what was probably meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like the parent class; flags of other programs are told first: some would pass for abbreviations."""
        words = sys.argv[1:] if args is None else args
        if any(isinstance(action.choices, dict) for action in self._actions):  # the parser of all commands
            words = list(takewhile(lambda word: word.startswith("-"), words))
            self._refuse_early(words)
        for word in takewhile(lambda word: word != "--", words):
            flag = word.partition("=")[0]
            if flag in _OTHERS_FLAGS and flag not in self._option_string_actions:
                self.error(self._explain_no_flag(flag))
        return super().parse_known_args(args, namespace)

    def _refuse_early(self, words: Sequence[str]) -> None:
        """Exit with 2 for a flag before the command that belongs behind it, or that nobody knows."""
        commands = [
            parser for action in self._actions if isinstance(action.choices, dict) for parser in action.choices.values()
        ]
        for flag in (word.partition("=")[0] for word in words):
            if flag not in self._option_string_actions and any(
                flag in each._option_string_actions for each in commands
            ):
                self.error(f"{flag} goes behind the command: muxd COMMAND {flag}")
            if not any(known.startswith(flag) for known in self._option_string_actions):
                self.error(self._explain_no_flag(flag))

    def error(self, message: str) -> NoReturn:
        if wrong := _WRONG_COMMAND.search(message):
            message = _explain_no_command(wrong["word"], [known.strip("' ") for known in wrong["known"].split(",")])
        elif several := _SEVERAL.search(message):
            *others, last = several["known"].split(", ")
            message = f"{several['flag']} is the beginning of {', '.join(others)} and {last}; write one of them in full"
        elif value := _WRONG_VALUE.search(message):
            known = value["known"].replace("'", "")
            message = f"{value['flag']} {value['word']} is not known; there are {known}"
        elif extra := _EXTRA_WORD.search(message):
            meant = "--output" if "--output" in self._option_string_actions else "--config"
            message = f"{self.prog} takes no name; did you mean {meant} {extra['word']}?"
        elif unknown := _WRONG_FLAG.search(message):
            message = self._explain_no_flag(unknown["flag"].partition("=")[0])
        elif message.endswith("required: COMMAND"):
            message = f"a command is missing: {', '.join(_commands(self))}; muxd --help says what they do"
        super().error(message)

    def _explain_no_flag(self, flag: str) -> str:
        """Return what to write in the place of a flag that this command does not have."""
        from .config.names import nearest  # imported for an error only

        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        for meant in _OTHERS_FLAGS.get(flag, ()):
            if meant.partition(" ")[0] in known:
                return f"{self.prog} has no {flag}; did you mean {meant}?"
            if not meant.startswith("-"):
                return f"{self.prog} has no {flag}: {meant}"
        near = nearest(flag.strip("-"), [name.strip("-") for name in known]) if flag.startswith("--") else None
        hint = f"did you mean --{near}?" if near else f"there are {', '.join(known)}"
        return f"{self.prog} has no {flag}; {hint}"


_UNITS = "`muxd setup --systemd` makes it a service"
_IN_FILE = "it is a key of the configuration, {} under {}"

#: Flags of other programs, each with flags of muxd for that purpose, of which the first counts that a command has, or
#: with a sentence for all commands.
_OTHERS_FLAGS = {
    **dict.fromkeys(("--port", "-p", "--http-port"), ("--listen-port", _IN_FILE.format("listen", "[proxy]"))),
    **dict.fromkeys(("--listen", "--bind", "--address", "-H"), ("--host", _IN_FILE.format("listen", "[proxy]"))),
    **dict.fromkeys(("--host", "--listen-port"), (_IN_FILE.format("listen", "[proxy]"),)),
    **dict.fromkeys(("--conf", "--config-file", "--cfg", "-c", "-f", "--file"), ("--config", "--output")),
    **dict.fromkeys(
        ("--debug", "--verbose", "-v", "-vv", "--trace"), ("--log-level debug", _IN_FILE.format("log_level", "[muxd]"))
    ),
    "--log-level": (_IN_FILE.format("log_level", "[muxd]"),),
    **dict.fromkeys(("--quiet", "-q", "--silent"), ("--log-level warning", _IN_FILE.format("log_level", "[muxd]"))),
    **dict.fromkeys(
        ("--log-file", "--logfile", "--log", "--logs", "--log-path"),
        ("--log-dir", _IN_FILE.format("log_dir", "[muxd]")),
    ),
    "--config": ("--output",),
    **dict.fromkeys(("--socket", "--sock", "-s"), (_IN_FILE.format("socket", "[muxd]"),)),
    **dict.fromkeys(("--state-dir", "--data-dir", "--state"), (_IN_FILE.format("state_dir", "[muxd]"),)),
    **dict.fromkeys(
        ("--model", "--model-path", "-m", "--served-model-name"),
        (
            "--models",
            "a model is a table [models.NAME] of the configuration, which muxd init writes, or a launch script",
        ),
    ),
    **dict.fromkeys(("--model-dir", "--models-dir", "--search"), ("--models",)),
    **dict.fromkeys(
        ("--tp", "--tp-size", "--tensor-parallel-size", "--context-length", "--max-model-len", "--mem-fraction-static"),
        ("it is a flag of one model's engine, and goes into args under [models.NAME]",),
    ),
    **dict.fromkeys(("--gpu-memory-utilization",), ("a model's share of its GPUs is memory under [models.NAME]",)),
    **dict.fromkeys(("--gpu", "--gpus", "--device", "--devices"), (_IN_FILE.format("gpus", "[models.NAME]"),)),
    **dict.fromkeys(("--api-key", "--api-keys", "--key"), ("muxctl keys add NAME makes an API key",)),
    **dict.fromkeys(("--no-auth", "--anonymous"), ("--allow-anonymous",)),
    **dict.fromkeys(("--timeout",), ("--upstream-timeout-secs",)),
    **dict.fromkeys(("--user", "--group"), ("muxd runs as the user that starts it; under systemd User= says which",)),
    **dict.fromkeys(
        ("--daemon", "--daemonize", "--background", "--detach", "-d", "-D"), (f"muxd runs in the foreground; {_UNITS}",)
    ),
    **dict.fromkeys(("--pidfile", "--pid-file"), (f"muxd runs in the foreground, and needs no such file; {_UNITS}",)),
    **dict.fromkeys(
        ("--systemd", "--service", "--install"), ("--systemd", "`muxd setup --systemd` makes muxd a service")
    ),
    **dict.fromkeys(
        ("--dry-run", "--test", "-t", "-n", "--validate"), ("--print", "muxd check looks and starts nothing")
    ),
    **dict.fromkeys(("--version", "-V"), ("it is muxd --version, without a command",)),
    **dict.fromkeys(
        ("--tls", "--ssl", "--cert", "--certfile", "--keyfile", "--ssl-certfile", "--ssl-keyfile"),
        ("muxd speaks plain HTTP, and a server in front of it, such as caddy or nginx, speaks TLS",),
    ),
    **dict.fromkeys(("--stdout",), ("--print",)),
    **dict.fromkeys(("-o", "--out", "--output-file"), ("--output",)),
    **dict.fromkeys(("--yes", "-y", "--overwrite", "--replace"), ("--force",)),
    **dict.fromkeys(("--offline", "--no-network"), ("--no-host",)),
    **dict.fromkeys(("--json", "--format"), ("muxctl status --json is for programs",)),
    **dict.fromkeys(("--reload", "--watch"), ("muxctl reload has a running muxd read its configuration again",)),
}

_WRONG_COMMAND = re.compile(r"argument COMMAND: invalid choice: '(?P<word>.*?)' \(choose from (?P<known>.*)\)")
_SEVERAL = re.compile(r"ambiguous option: (?P<flag>[^\s=]+)\S* could match (?P<known>.*)")
_WRONG_VALUE = re.compile(r"argument (?P<flag>--\S+): invalid choice: '?(?P<word>.*?)'? \(choose from (?P<known>.*)\)")
_EXTRA_WORD = re.compile(r"unrecognized arguments: (?P<word>[^-\s]\S*)")
_WRONG_FLAG = re.compile(r"unrecognized arguments: (?:.* )??(?P<flag>--\S+|-[A-Za-z]\b)")

#: Words of other programs, each with what muxd or muxctl has for that purpose.
_OTHERS_COMMANDS = {
    **dict.fromkeys(("serve", "run", "up", "server", "daemon", "launch"), "it is `muxd start`"),
    **dict.fromkeys(("version", "help"), "it is `muxd --{}`"),
    **dict.fromkeys(("validate", "test", "lint", "verify", "configtest", "doctor"), "it is `muxd check`"),
    **dict.fromkeys(
        ("new", "create", "configure", "generate", "bootstrap", "onboard"),
        "`muxd init` writes a first configuration",
    ),
    **dict.fromkeys(
        ("config", "conf", "settings"),
        "`muxd init` writes a first configuration, `muxd check` says what is wrong with one",
    ),
    **dict.fromkeys(
        ("install", "install-units", "enable", "service", "systemd"),
        "`muxd init` writes a first configuration, and `muxd setup --systemd` makes muxd a service",
    ),
    "demo": "it is `muxd start --demo`",
    **dict.fromkeys(
        ("convert", "migrate", "translate", "upgrade"), "`muxd import` reads another program's configuration"
    ),
    **dict.fromkeys(("llmux", "llama-swap"), "`muxd import {} FILE` writes a configuration from that of {}"),
    **dict.fromkeys(("ps", "ls", "list", "top", "models", "info"), "that is `muxctl status`"),
    **dict.fromkeys(
        ("stop", "shutdown", "down", "quit", "kill"), "`muxctl shutdown` stops muxd, `muxctl stop NAME` one model"
    ),
    **dict.fromkeys(("load", "wake", "use"), "that is `muxctl switch NAME`"),
    **dict.fromkeys(("unload",), "that is `muxctl sleep NAME`"),
    **dict.fromkeys(
        ("pull", "download", "add"), "a model is a table [models.NAME] of the configuration, see `muxd init`"
    ),
}


def _explain_no_command(word: str, known: list[str]) -> str:
    from muxctl.verbs import VERBS  # imported for an error only

    if told := _OTHERS_COMMANDS.get(word):
        return f"muxd has no command {word}: {told.replace('{}', word)}"
    if word in VERBS:
        return f"muxd has no command {word}: that is `muxctl {word}`"
    if word.endswith((".toml", ".sh")):
        return f"muxd has no command {word}: write `muxd start {word}`, or `muxd check {word}`"
    plain = word.lower()
    near = get_close_matches(plain, [*known, *VERBS], 1, _CLOSE) or get_close_matches(plain, known, 1)
    if near:
        program = "muxd" if near[0] in known else "muxctl"
        return f"muxd has no command {word}; did you mean {program} {near[0]}?"
    return f"muxd has no command {word}; there are {', '.join(known)}"


#: The least similarity (difflib's ratio) of a word and a verb of muxctl that it may be a slip of.
_CLOSE = 0.75


def _commands(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            yield from action.choices
