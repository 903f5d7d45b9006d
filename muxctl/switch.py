"""`muxctl switch NAME`: make a model ready now, ahead of the queue, and watch it happen."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Models that hold its GPUs finish what is in flight and give way, as if a request
for NAME were the oldest of all.  Only a newer switch takes this one's place.
A model that was stopped stays so: muxctl start lifts that."""
EXAMPLES = {
    "muxctl switch qwen": "and watch it happen",
    "muxctl switch qwen --no-wait": "order it only",
    "muxctl switch qwen --timeout 5min": "watch it for five minutes at most",
}
EXITS = orders.EXITS | {
    ExitCode.OK: "it is ready",
    ExitCode.NOT_READY: "it was stopped with muxctl stop",
    ExitCode.SUPERSEDED: "superseded by a newer switch",
}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser)


def run(options: Namespace) -> int:
    return orders.give("switch", options)
