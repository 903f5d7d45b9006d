"""`muxctl start NAME`: load a model where it fits, and let it run again after a stop."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Lifts a stop, and loads the model if its GPUs have room; nobody is made to give
way.  Where there is no room it may run again all the same: requests for it are
taken, and muxctl switch makes room at once."""
EXAMPLES = {
    "muxctl start qwen": "load it, watch until it is ready",
    "muxctl start qwen --no-wait": "order it only",
}
EXITS = orders.EXITS | {
    ExitCode.OK: "it is ready",
    ExitCode.NOT_READY: "it may run again, but others hold its GPUs: muxctl switch makes room",
}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser)


def run(options: Namespace) -> int:
    return orders.give("start", options)
