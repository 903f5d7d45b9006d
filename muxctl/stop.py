"""`muxctl stop NAME`: end a model, and keep it down until it is started again."""

from argparse import ArgumentParser, Namespace

from muxctl import orders
from muxctl.exit_codes import ExitCode

MEANING = """\
Finishes the requests in flight (at most drain_timeout), then ends the model's
processes.  It stays down, also when muxd is started anew, and requests for it
get 503 (model_stopped) until muxctl start NAME."""
EXAMPLES = {
    "muxctl stop qwen": "let requests finish first",
    "muxctl stop qwen --now": "cut them off",
}
EXITS = orders.EXITS | {ExitCode.OK: "it is stopped"}


def arguments(parser: ArgumentParser) -> None:
    orders.arguments(parser, now=True)


def run(options: Namespace) -> int:
    return orders.give("stop", options, now=options.now)
