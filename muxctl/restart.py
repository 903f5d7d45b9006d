"""`muxctl restart NAME`: end a model and load it again."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Finishes the requests in flight (at most drain_timeout), ends the model's
processes and loads it again where it fits; nobody is made to give way.
Requests that come meanwhile wait for it."""
EXAMPLES = {
    "muxctl restart qwen": "let requests finish first",
    "muxctl restart qwen --now": "cut them off",
}
EXITS = orders.EXITS | {
    ExitCode.OK: "it is ready again",
    ExitCode.NOT_READY: "it may run again, but others hold its GPUs: muxctl switch makes room",
}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser, now=True)


def run(options: Namespace) -> int:
    return orders.give("restart", options, now=options.now)
