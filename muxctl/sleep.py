"""`muxctl sleep NAME`: make a model give its GPU up until it is asked for."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Finishes the requests in flight (at most drain_timeout), then gives the GPU up
as its sleep level says: 0 keeps the weights there, 1 in host memory, 2 gives
them up, 3 ends the process.  One that sleeps can be put deeper.  The next
request may wake it again; muxctl stop is what keeps a model down."""
EXAMPLES = {
    "muxctl sleep qwen --level 3": "end its process; the next request starts it",
    "muxctl sleep qwen": "and watch until its GPU is free",
    "muxctl sleep qwen --no-wait": "order it only",
}
EXITS = orders.EXITS | {ExitCode.OK: "it is asleep"}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser)
    parser.add_argument("--level", type=int, choices=range(4), help="how deep; by default as its sleep_level says")


def run(options: Namespace) -> int:
    body = {} if options.level is None else {"level": options.level}
    return orders.give("sleep", options, **body)
