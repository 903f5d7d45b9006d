"""`muxctl hold NAME`: make a model ready now, and keep it on its GPUs."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Makes it ready as muxctl switch does.  From then on it leaves its GPUs for no
other model, as if it were pinned: a request for one that does not fit beside it
is refused at once.  It does not sleep by itself, either.  A hold outlasts muxd."""
EXAMPLES = {
    "muxctl hold qwen --for 2h": "two hours, for a demonstration",
    "muxctl hold qwen": "until muxctl unhold qwen",
}
EXITS = orders.EXITS | {ExitCode.OK: "it is ready, and held"}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser)
    parser.add_argument(
        "--for", dest="for_", metavar="TIME", help='hold it for "90s", "5min", "2h" or seconds from now'
    )


def run(options: Namespace) -> int:
    seconds = orders.lasting(options.for_, "a hold lasts longer than no time; muxctl unhold ends one")
    return orders.give("hold", options, **({} if seconds is None else {"for_s": seconds}))
