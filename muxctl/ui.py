"""`muxctl ui`: a link that opens the console and lets its holder operate."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from socket import gethostname
from urllib.parse import urlsplit

from muxctl.control_connection import ask
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
Prints the address of the console, a web page, with a token that is good once
and for five minutes: whoever opens it may operate muxd there as you may here.
--open opens it in this desktop's browser.  The console runs where muxd.toml has
listen under [ui]; from elsewhere: ssh -L 30102:127.0.0.1:30102 HOST, which is
said to who came by ssh, too."""
EXAMPLES = {"muxctl ui": "the link", "muxctl ui --open": "and a browser with it"}
EXITS = EVERYWHERE | {
    ExitCode.OK: "the link was printed",
    ExitCode.NOT_READY: "there is no console: [ui] listen is not set",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--open", action="store_true", help="open it in a browser")


def run(options: Namespace) -> int:
    link = ask(find_socket(options.socket), "POST", "/v1/ui/link", {})
    if link["url"] is None:
        raise CommandFailed(
            'there is no console: write listen = "127.0.0.1:30102" under [ui] in muxd.toml, and restart muxd',
            ExitCode.NOT_READY,
        )
    print(json.dumps(link) if options.json else link["url"])
    if os.environ.get("SSH_CONNECTION") and (way := _way_by_ssh(link["url"])):
        print(way, file=sys.stderr)
    if options.open:
        import webbrowser

        if not webbrowser.open(link["url"]):
            raise CommandFailed("there is no browser to open it here: open the link elsewhere")
    return ExitCode.OK


def _way_by_ssh(url: str) -> str:
    """Return how a link is reached from the machine that an ssh session came from; "" where it is reached as it is."""
    at = urlsplit(url)
    if at.hostname not in ("127.0.0.1", "::1", "localhost"):
        return ""
    place = f"{at.port}:{f'[{at.hostname}]' if at.hostname == '::1' else at.hostname}:{at.port}"
    return f"on your own machine, before you open it: ssh -L {place} {gethostname()}"
