"""Wrong command lines of muxctl: each is answered with what was probably meant."""

import os
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NoReturn

from muxctl.exit_codes import CommandFailed

#: Options of journalctl, docker, systemctl, curl and tail, each with what muxctl has for the same purpose.  An option
#: is proposed where the verb has it, another text anywhere.
_ALSO_SAID = {
    "--since": "-n N goes back by N lines",
    "--until": "-n N goes back by N lines",
    "--tail": "-n N goes back by N lines",
    "-l": "-n N goes back by N lines",
    "--force": "--now",
    "--kill": "--now",
    "--yes": "--yes",
    "-y": "--yes",
    "--no-block": "--no-wait",
    "--detach": "--no-wait",
    "--async": "--no-wait",
    "-d": "--no-wait",
    "--wait": "muxctl waits unless it is told --no-wait",
    "-w": "--watch",
    "--follow": "--follow",
    "--live": "--watch",
    "--output": "--json",
    "-o": "--json",
    "--format": "--json",
    "--out": "--json",
    "-j": "--json",
    "--check": "--dry-run",
    "--model": "a model is named without an option: muxctl VERB NAME",
    "-m": "a model is named without an option: muxctl VERB NAME",
    "--name": "a model is named without an option: muxctl VERB NAME",
    "--all": "one model at a time",
    "-a": "one model at a time",
    "--host": "muxctl talks to the muxd of this host, at --socket PATH",
    "-H": "muxctl talks to the muxd of this host, at --socket PATH",
    "--url": "muxctl talks to the muxd of this host, at --socket PATH",
    "--port": "muxctl talks to the muxd of this host, at --socket PATH",
    "-p": "muxctl talks to the muxd of this host, at --socket PATH",
    "--server": "muxctl talks to the muxd of this host, at --socket PATH",
    "--config": "muxctl asks the running muxd, which knows its configuration; --socket PATH says which muxd",
    "-c": "muxctl asks the running muxd, which knows its configuration; --socket PATH says which muxd",
    "-s": "--socket",
    "-V": "--version",
    "-v": "muxctl --version says which version this is",
    "--verbose": "muxctl status NAME tells everything about a model",
}

#: Words for the actions of `muxctl keys`, in the place of its own.
_ACTIONS_ALSO_SAID = {
    **dict.fromkeys(("new", "create", "make", "generate", "gen", "issue", "set"), "add"),
    **dict.fromkeys(("ls", "show", "get", "all", "ps"), "list"),
    **dict.fromkeys(("rm", "remove", "delete", "del", "drop", "disable", "expire"), "revoke"),
}

# Not compiled before an error is told, which most commands never do.
_NO_CHOICE = r"argument (?P<what>\S+): invalid choice: '?(?P<word>.*?)'? \(choose from (?P<known>.*)\)"
_SEVERAL = r"ambiguous option: (?P<flag>\S+) could match (?P<known>.*)"


class VerbHelpFormatter(RawDescriptionHelpFormatter):
    """Help of one verb, as wide as the terminal.

    To find that width argparse loads shutil, and with it every kind of compression, for each option that is added.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """Return the width of the terminal as shutil.get_terminal_size does: $COLUMNS, what the terminal says, or 80."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # stdout is closed, or no terminal
        return 80


class VerbParser(ArgumentParser):
    """The parser of one verb's words; its errors say what was probably meant, and which models there are."""

    words: Sequence[str] = ()  # those that are parsed

    def error(self, message: str) -> NoReturn:
        if wrong := re.match(_NO_CHOICE, message):
            known = [word.strip(" '") for word in wrong["known"].split(",")]
            meant = _ACTIONS_ALSO_SAID.get(wrong["word"], "") if wrong["what"] == "ACTION" else ""
            meant = (meant if meant in known else "") or did_you_mean(wrong["word"], known)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
            message = f"no such {wrong['what'].lstrip('-').lower()}: {wrong['word']}; {hint}"
        elif several := re.match(_SEVERAL, message):
            message = several_options(several["flag"], several["known"])
        elif message.endswith("required: NAME"):
            names = _models(self.words)
            which = f": {', '.join(names)}" if names else "; muxctl status lists them"
            message = f"of which model? {self.prog} NAME{which}"
        elif message.endswith("required: ACTION"):
            actions = next((action.choices for action in self._actions if action.dest == "action"), None)
            message = f"what of them? {self.prog} ACTION: {', '.join(map(str, actions or ()))}"
        elif message.endswith("required: COMMAND"):
            message = f"on which GPU, and which command? {self.prog} GPU -- COMMAND"
        super().error(message)

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Exit with status 2 and a hint on the first of the words that the parser does not know."""
        word, flag = words[0], words[0].partition("=")[0]
        if any(action.dest == "command" for action in self._actions) and "--" not in self.words:
            hint = f"an option of COMMAND goes behind --: {self.prog} GPU -- COMMAND"
            self.error(f"{flag} is none of {self.prog}; {hint}")
        if not word.startswith("-"):
            names_a_model = any(action.dest == "name" for action in self._actions)
            hint = "; one model at a time" if names_a_model else f"; {self.prog} takes no name"
            hint += ": muxctl stop NAME ends one model" if self.prog.endswith(" shutdown") else ""
            self.error(f"unrecognized arguments: {' '.join(words)}{hint}")
        self.error(f"no such option: {flag}; {option_hint(flag, self)}")


def option_hint(flag: str, parser: ArgumentParser) -> str:
    """Return a hint for an unknown option: the options that may have been meant, else all of them.

    Names are compared without their dashes, which would make all options alike.
    """
    known = parser._option_string_actions
    meant = _ALSO_SAID.get(flag, "")
    if meant.startswith("-n N"):
        meant = meant if "-n" in known else ""
    if meant and not meant.startswith("--"):
        return meant
    if meant in known:
        return f"did you mean {meant}?"
    options = sorted(option for option in known if option.startswith("--"))
    near = nearest(flag.lstrip("-"), [option[2:] for option in options])
    return f"did you mean {' or '.join(f'--{name}' for name in near)}?" if near else f"there are {', '.join(options)}"


def several_options(flag: str, known: str) -> str:
    """Return the message about an abbreviation of several options."""
    *others, last = known.split(", ")
    return f"{flag} is the beginning of {', '.join(others)} and {last}; write one of them in full"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the nearest known words, as "A, B or C"; "" if none is near."""
    *others, last = nearest(word, list(known)) or [""]
    return f"{', '.join(others)} or {last}" if others else last


def nearest(word: str, known: Sequence[str]) -> list[str]:
    """Return the known words that begin with `word`, else the one that is spelled most like it."""
    from difflib import get_close_matches

    return [other for other in known if other.startswith(word)] or get_close_matches(word, known, 1, 0.7)


#: Seconds that muxd may take to say which models it has, for a message that does without.
_PATIENCE = 1.0

#: Models that a message lists, at most.
_MOST = 20


def _models(words: Sequence[str]) -> list[str]:
    """Return the names of the models of the muxd that a command line is for; none where no muxd answers."""
    from muxctl.control_connection import ask
    from muxctl.socket_path import find_socket

    said = [word.partition("=")[2] for word in words if word.startswith("--socket=")]
    said += [value for word, value in pairwise(words) if word == "--socket"]
    try:
        models = ask(find_socket(said[0] if said else None), "GET", "/v1/status", patience=_PATIENCE)["models"]
    except (CommandFailed, KeyError):
        return []
    names = [str(model["name"]) for model in models]
    return names[:_MOST] + (["..."] if len(names) > _MOST else [])
