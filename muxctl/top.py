"""`muxctl top`: everything on one screen, live, with orders by a key."""

from argparse import ArgumentParser, Namespace

from muxctl.exit_codes import EVERYWHERE, ExitCode

MEANING = """\
Shows GPUs, models and the switch under way, again every second, also while muxd
is restarted.  Arrows choose a model: s switches to it, z lets it sleep, r
restarts, x stops and t starts it (r and x ask first), l shows its log, w why it
was switched, q ends."""
EXAMPLES = {"muxctl top": "until q"}
EXITS = EVERYWHERE | {ExitCode.OK: "ended by q", ExitCode.USAGE: "usage, or no terminal"}


def arguments(parser: ArgumentParser) -> None:
    pass


def run(options: Namespace) -> int:
    from muxctl.display.top_screen import show

    return show(options.socket)
