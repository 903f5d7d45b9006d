"""`muxctl validate NAME`: let a model sleep and wake at each level, and see whether it comes back as it was."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable
from typing import Any

from muxctl.control_connection import model_target, stream
from muxctl.display.cycles import CycleLines
from muxctl.display.progress import JsonLines, Reporter
from muxctl.display.tables import on_terminal
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode, refusal
from muxctl.socket_path import find_socket

MEANING = """\
Loads the model if need be, then puts it to sleep and wakes it at each level,
and prints what that takes and whether its answer is the same as before.  Its
clients wait meanwhile, and so do other models that need its GPUs.  Levels for
which its process was not launched are tried with another one.  In the end the
model is ready, as its configuration says."""
EXAMPLES = {
    "muxctl validate qwen": "every level that it has, twice",
    "muxctl validate qwen --levels 1,2": "only these",
    "muxctl validate qwen --cycles 20 --json": "a line of JSON for each cycle",
}
EXITS = (
    EVERYWHERE
    | {code: MEANINGS[code] for code in (ExitCode.NOT_READY, ExitCode.NO_MODEL, ExitCode.SUPERSEDED)}
    | {
        ExitCode.OK: "every level passed",
        ExitCode.FAILED: "a level failed",
        ExitCode.USAGE: "usage, or a level that the model does not have",
        ExitCode.INTERRUPTED: "interrupted; the model serves again",
    }
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a model's name, or what clients call it")
    parser.add_argument("--levels", metavar="LEVELS", type=levels_in, help='such as "1,2"; by default all that it has')
    parser.add_argument("--cycles", metavar="N", type=_cycles, help="how often each is tried; by default twice")


def levels_in(text: str) -> list[int]:
    """Return the sleep levels in a text such as "1,2"; raise ArgumentTypeError for any other text."""
    words = [word.strip() for word in text.split(",")]
    if any(word not in ("0", "1", "2", "3") for word in words):
        raise ArgumentTypeError(f"levels are 0 to 3, with commas between them, not {text!r}")
    return sorted({int(word) for word in words})


def _cycles(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= 1000):
        raise ArgumentTypeError(f"a whole number from 1 to 1000, not {text!r}")
    return int(text)


def run(options: Namespace) -> int:
    """Have the model validated, and report each cycle.  Raises CommandFailed where one failed, or it did not end."""
    path, name = find_socket(options.socket), options.name
    body = {"levels": options.levels} if options.levels else {}
    body |= {"cycles": options.cycles} if options.cycles else {}
    try:
        return _watch(name, stream(path, "POST", model_target(name, "/validate"), body), _reporter(options))
    except KeyboardInterrupt:
        message = f"the validation of {name} has ended; its clients are served again"
        raise CommandFailed(message, ExitCode.INTERRUPTED) from None


def _reporter(options: Namespace) -> Reporter:
    if options.json:
        return JsonLines("validate")
    if on_terminal():
        from muxctl.display.live import LiveCycles

        return LiveCycles()
    return CycleLines()


def _watch(name: str, lines: Iterable[dict[str, Any]], reporter: Reporter) -> int:
    failed: list[str] = []
    with reporter:
        for line in lines:
            reporter.take(line)
            if line["type"] == "failed":
                raise refusal(line)
            if line["type"] == "cycle" and not line["passed"]:
                failed.append(f"level {line['level']}")
            if line["type"] == "done":
                break
        else:
            raise CommandFailed(f"muxd ended before {name} was validated; see its log", ExitCode.UNREACHABLE)
    if failed:
        raise CommandFailed(f"{name} failed at {' and '.join(dict.fromkeys(failed))}")
    return ExitCode.OK
