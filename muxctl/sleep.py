"""`muxctl sleep NAME`: make a model give its GPU up until it is asked for."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Finishes the requests in flight (at most drain_timeout), then gives the GPU up
as its sleep level says.  The next request may wake it again; muxctl stop is
what keeps a model down."""
EXAMPLES = {
    "muxctl sleep qwen": "and watch until its GPU is free",
    "muxctl sleep qwen --no-wait": "order it only",
}
EXITS = orders.EXITS | {ExitCode.OK: "it is asleep"}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser)


def run(options: Namespace) -> int:
    return orders.give("sleep", options)
