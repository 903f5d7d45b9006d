"""`muxctl yield`: let every model sleep, and keep muxd off the GPUs for a while."""

import json
from argparse import ArgumentParser, Namespace

from muxctl.control_connection import ask, stream
from muxctl.display.tables import duration
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode, refusal
from muxctl.orders import lasting
from muxctl.socket_path import find_socket

MEANING = """\
Every model finishes its requests and sleeps, pinned and held ones too, and none
comes back before the time is over, or muxctl yield --end.  Requests wait until
then, or are refused with --refuse.  Then the models that were awake come back.
It outlasts muxd.  muxctl lend does this for one GPU and one command."""
EXAMPLES = {
    "muxctl yield --for 2h": "all GPUs are yours for two hours",
    "muxctl yield --refuse": "until muxctl yield --end; requests get 503",
    "muxctl yield --end": "muxd has its GPUs again",
}
EXITS = EVERYWHERE | {
    ExitCode.OK: "the GPUs are free, or muxd's again",
    ExitCode.NOT_READY: "a GPU is lent, or there is nothing to end",
    ExitCode.INTERRUPTED: "interrupted; what was ordered goes on",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--for", dest="for_", metavar="TIME", help='"90s", "5min", "2h" or seconds; by default no end')
    parser.add_argument("--refuse", action="store_true", help="requests get 503 instead of waiting")
    parser.add_argument("--end", action="store_true", help="let the models come back")


def run(options: Namespace) -> int:
    seconds = lasting(options.for_, "it lasts longer than no time; muxctl yield --end lets the models come back")
    path = find_socket(options.socket)
    if options.end:
        ended = ask(path, "POST", "/v1/loans/end", {})
        if not ended["ended"]:
            raise CommandFailed("the GPUs are muxd's already: no muxctl yield is under way", ExitCode.NOT_READY)
        print(json.dumps(ended) if options.json else "the models come back")
        return ExitCode.OK
    body = {"borrowed": False, "refuses": options.refuse} | ({} if seconds is None else {"for_s": seconds})
    try:
        for line in stream(path, "POST", "/v1/loans", body):
            if line["type"] == "failed":
                raise refusal(line)
            if line["type"] == "lent":
                end = "until muxctl yield --end" if seconds is None else f"for {duration(seconds)}"
                print(json.dumps(line) if options.json else f"every model sleeps; the GPUs are free {end}")
                return ExitCode.OK
    except KeyboardInterrupt:
        raise CommandFailed(
            "not watching any more; the models go to sleep all the same", ExitCode.INTERRUPTED
        ) from None
    raise CommandFailed("the time was over before every model slept, or muxd ended; see muxctl status")
