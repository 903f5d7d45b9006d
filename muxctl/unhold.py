"""`muxctl unhold NAME`: let a model go that is held."""

import json
from argparse import ArgumentParser, Namespace

from muxctl.control_connection import ask, model_target
from muxctl.exit_codes import EVERYWHERE, MEANINGS, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
Ends a muxctl hold.  The model stays awake until another one wants its GPUs, or
its idle time is over."""
EXAMPLES = {"muxctl unhold qwen": "others may have its GPUs again"}
EXITS = EVERYWHERE | {
    ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL],
    ExitCode.NOT_READY: "nobody holds it",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model's name, or what clients call it")


def run(options: Namespace) -> int:
    answer = ask(find_socket(options.socket), "POST", model_target(options.name, "/unhold"), {})
    print(json.dumps(answer) if options.json else f"{answer['model']} is not held any more")
    return ExitCode.OK
