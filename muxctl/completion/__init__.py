"""`muxctl completion SHELL`: the script that makes a shell complete muxctl's words."""

import re
from argparse import SUPPRESS, ArgumentParser, Namespace
from importlib import import_module

from muxctl.exit_codes import CommandFailed, ExitCode

MEANING = """\
Prints a script for the shell; its first lines say where to put it.  It
completes verbs, their options and the models that muxd has when TAB is
pressed; while muxd is down there are none."""
EXAMPLES = {
    "source <(muxctl completion bash)": "for this bash",
    "source <(muxctl completion zsh)": "for this zsh, after compinit",
    "muxctl completion fish | source": "for this fish",
}
EXITS = {ExitCode.OK: "it was printed", ExitCode.USAGE: "usage"}

SHELLS = ("bash", "zsh", "fish")

_PATIENCE = 1.0  # seconds; a user who presses TAB waits no longer for a muxd that hangs


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    # The scripts call this: it prints every model as NAME:STATE.
    parser.add_argument("--models", action="store_true", help=SUPPRESS)


def run(options: Namespace) -> int:
    if options.models:
        for line in _models(options.socket):
            print(line)
    elif options.shell is None:
        raise CommandFailed(f"say for which shell: {', '.join(SHELLS)}", ExitCode.USAGE)
    else:
        from muxctl.completion.outline import MUXCTL

        print(import_module(f"muxctl.completion.{options.shell}").script(MUXCTL), end="")
    return ExitCode.OK


def _models(socket: str | None) -> list[str]:
    """Return NAME:STATE of every model; none if muxd does not answer, since a TAB must not print an error."""
    from muxctl.control_connection import ask
    from muxctl.socket_path import find_socket

    try:
        models = ask(find_socket(socket), "GET", "/v1/status", patience=_PATIENCE)["models"]
    except (CommandFailed, KeyError):
        return []
    # Other names are left out: a shell may take their characters for its own syntax.
    return [f"{m['name']}:{m['state']}" for m in models if re.fullmatch(r"[\w./-]+", m["name"], re.ASCII)]
