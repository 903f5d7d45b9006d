"""argv -> the verb's file -> an exit code.  Whatever goes wrong is one line on stderr, never a traceback."""

import os
import sys
from argparse import ArgumentParser
from importlib import import_module

from muxctl.exits import Exit, Failure
from muxd import __version__

VERBS = {
    "status": "what every model is doing, or everything about one",
    "switch": "make a model ready now, ahead of the queue",
    "logs": "what a model wrote, also when muxd is down",
    "events": "what happened, and with -f what happens",
    "shutdown": "stop every model, and muxd",
}

HELP = f"""\
usage: muxctl [--socket PATH] [--json] VERB ...

Talks to the muxd of this host.

{chr(10).join(f"  {verb:10}{summary}" for verb, summary in VERBS.items())}

  --socket PATH   muxd's control socket; else $MUXD_SOCKET, else the first that exists of
                  $XDG_RUNTIME_DIR/muxd/muxd.sock, /run/muxd/muxd.sock, ~/.local/state/muxd/muxd.sock
  --json          for programs (status, switch, events)

muxctl VERB --help tells more.  Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 known but not ready,
4 no such model, 5 no permission, 7 muxd unreachable, 8 timed out, 9 superseded.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line (the process's own); its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except Failure as failure:
        print(f"muxctl: {failure.message}", file=sys.stderr)
        return failure.code
    except KeyError as missing:
        print(f"muxctl: muxd's answer has no {missing}; are muxd and muxctl of one version?", file=sys.stderr)
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return Exit.BROKEN_PIPE
    except OSError as error:
        print(f"muxctl: {error}", file=sys.stderr)
        _discard_output()
        return Exit.FAILED


def _discard_output() -> None:
    """Nobody takes it any more.  What is still buffered must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    verb, rest = _split(argv)
    if verb is None:
        print(rest[0])
        return Exit.OK
    module = import_module(f"muxctl.{verb}")
    parser = ArgumentParser(f"muxctl {verb}", description=f"{VERBS[verb].capitalize()}.")
    parser.add_argument("--socket", metavar="PATH", help="muxd's control socket")
    parser.add_argument("--json", action="store_true", help="for programs")
    module.arguments(parser)
    return int(module.run(parser.parse_args(rest)))


def _split(argv: list[str]) -> tuple[str | None, list[str]]:
    """The verb and every other argument, options before the verb too; or None and a text to print."""
    before: list[str] = []
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        before.append(rest.pop(0))
        if before[-1] == "--socket" and rest:
            before.append(rest.pop(0))
    if "--help" in before or "-h" in before:
        return None, [HELP.rstrip()]
    if "--version" in before:
        return None, [f"muxctl {__version__}"]
    if not rest:
        raise Failure(f"say what to do: {', '.join(VERBS)}; muxctl --help tells more", Exit.USAGE)
    if rest[0] not in VERBS:
        raise Failure(f"no such verb: {rest[0]}; {_meant(rest[0])}", Exit.USAGE)
    return rest[0], before + rest[1:]


def _meant(verb: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(verb, VERBS, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}"


if __name__ == "__main__":
    sys.exit(main())
