"""`muxctl scale NAME N`: let so many replicas of a model serve."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Starts or wakes replicas until there are N, where their GPUs have room: nobody
is made to give way.  With fewer, those that go finish what they have.  With 0
the model gives its GPUs up; the next request waits, and brings it back.  Where
there is min_replicas or max_replicas, the load decides again afterwards, and
fewer than min_replicas (replicas, unless it is set) are refused."""
EXAMPLES = {
    "muxctl scale qwen 2": "watch until two replicas serve",
    "muxctl scale qwen 0": "until a request comes",
}
EXITS = orders.EXITS | {
    ExitCode.OK: "so many replicas serve",
    ExitCode.USAGE: "usage, or the model cannot have so many replicas",
    ExitCode.NOT_READY: "there is no room for so many; the message says for how many there is",
}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser, now=True)
    most = "how many; from min_replicas to max_replicas, else from 0 to replicas"
    parser.add_argument("replicas", metavar="N", type=_count, help=most)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of replicas")
    return int(text)


def run(options: Namespace) -> int:
    return orders.give("scale", options, replicas=options.replicas, now=options.now)
