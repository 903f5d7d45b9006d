"""`muxctl status [NAME]`: what every model is doing, or everything about one; with --watch, repeatedly."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from muxctl.control_connection import ask, model_target
from muxctl.display.view import Compose
from muxctl.exit_codes import EVERYWHERE, MEANINGS, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
Without NAME: muxd, its GPUs, and a line for every model.  With NAME: its state,
what happens to it next, its memory, its last exit and the end of its log.
NOTE is cut at a terminal's edge, never in a pipe; status NAME has it whole.
--watch looks again every second, also while muxd is restarted, until Ctrl-C."""
EXAMPLES = {
    "muxctl status": "every model",
    "muxctl status qwen": "everything about one; exit 0 if it is ready",
    "muxctl status --watch": "go on looking; into a file: what changes",
    "muxctl status qwen --watch 5": "look every 5 seconds",
    "muxctl status --json": "one JSON object; with --watch, one a line",
}
EXITS = (
    EVERYWHERE
    | {code: MEANINGS[code] for code in (ExitCode.NOT_READY, ExitCode.NO_MODEL)}
    | {
        ExitCode.OK: "answered; with NAME: it is ready; with --watch: ended by Ctrl-C",
    }
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or what clients call it")
    parser.add_argument(
        "--watch", nargs="?", const="1", metavar="SECONDS", help="look again every SECONDS (1), until Ctrl-C"
    )


def run(options: Namespace) -> int:
    if options.watch is not None:
        from muxctl.display.watch import watch

        return watch(options, lambda: _asked(options), lambda value: _composer(options, value))
    value = _asked(options)
    _show(value, _composer(options, value), as_json=options.json)
    return ExitCode.OK if options.name is None or value["state"] == "ready" else ExitCode.NOT_READY


def _asked(options: Namespace) -> dict[str, Any]:
    """Return the status of all models, or of the one that is named.  Raises CommandFailed."""
    target = "/v1/status" if options.name is None else model_target(options.name)
    value: dict[str, Any] = ask(find_socket(options.socket), "GET", target)
    return value


def _composer(options: Namespace, value: dict[str, Any]) -> Compose:
    """Return the function that composes the status for people: the overview, or one model in detail."""
    if options.name is None:
        from muxctl.display.overview import overview

        return lambda width, height: overview(value, width, height)
    from muxctl.display.detail import detail

    return lambda width, height: detail(value, width)


def _show(value: dict[str, Any], compose: Compose, *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(value, indent=2))
    elif sys.stdout.isatty():
        from muxctl.display.colour import show

        show(compose)
    else:
        print("\n".join(compose(None, None)))
