"""`muxctl logs [NAME]`: the log of a model, of the proxy, or of all, from muxd, or from the files if muxd is down."""

import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from muxctl.control_connection import ControlConnection, model_target
from muxctl.display.tables import plain, visible
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket

MEANING = """\
What the model's processes wrote to stdout and stderr, across rotated files;
`proxy` is muxd's own proxy.  Without NAME it is that of all of them, each line
behind its model's name: with -f as lines come, else one file after the other.
muxd itself writes to its stderr: to the journal,
where systemd runs it (journalctl -u muxd).
On a terminal control characters are written out, as \\x1b; not into a pipe.
When muxd is down the files are read here, from the log directory of the
configuration that muxd start would find, or from --log-dir."""
EXAMPLES = {
    "muxctl logs qwen": "the last 100 lines of each",
    "muxctl logs qwen -f": "and what comes from now on",
    "muxctl logs qwen -n 1000 --stream stderr": "more, of one",
    "muxctl logs -f -n 0": "of all, from now on",
    "muxctl logs proxy": "what the proxy had to say",
}
EXITS = EVERYWHERE | {
    ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL],
    ExitCode.UNREACHABLE: "muxd ended while its log was followed",
    ExitCode.INTERRUPTED: "interrupted, as -f is meant to end",
}

STREAMS = ("stdout", "stderr")
_POLL = 0.2  # seconds between two reads of a file that is followed

_OWN = {"proxy": "muxd-proxy"}  # log names of muxd's own children, by the names that users type

Line = dict[str, Any]  # {"stream": "stderr", "line": "..."}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or what clients call it (all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until ^C")
    parser.add_argument("-n", "--lines", type=_count, default=100, metavar="N", help="begin N lines back (100)")
    parser.add_argument("--stream", choices=[*STREAMS, "both"], default="both", help="which of its two outputs (both)")
    parser.add_argument("--raw", action="store_true", help="control characters as they are, on a terminal, too")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="read the files in DIR, without asking muxd")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def run(options: Namespace) -> int:
    if options.json:
        show = _json_line
    elif sys.stdout.isatty() and not options.raw:
        show = _visible_line
    else:
        show = _plain_line
    connection = None if options.log_dir else _connected(options.socket)
    if connection is None:
        return _from_files(options, show)
    with connection:
        for line in _from_muxd(connection, options):
            show(line)
    if options.follow:
        raise CommandFailed("muxd has ended", ExitCode.UNREACHABLE)
    return ExitCode.OK


def _json_line(line: Line) -> None:
    print(json.dumps(line), flush=True)


def _visible_line(line: Line) -> None:
    """Print a line with its control characters written out: no model may steer the terminal."""
    _plain_line(line | {"line": visible(line["line"])} if "line" in line else line)


def _plain_line(line: Line) -> None:
    if "line" in line:
        worker = line.get("stream", "").rpartition(" ")[0]  # where a model has several
        print(f"{worker}: {line['line']}" if worker else line["line"], flush=True)
    else:
        print(f"... {line.get('missed', 'some')} lines were missed", flush=True)


def _connected(socket: str | None) -> ControlConnection | None:
    """Connect to muxd; return None if it is down.  Raises CommandFailed for other failures, as a lack of permission."""
    try:
        return ControlConnection(find_socket(socket))
    except CommandFailed as failure:
        if failure.code != ExitCode.UNREACHABLE:
            raise
        return None


def _from_muxd(connection: ControlConnection, options: Namespace) -> Iterator[Line]:
    query = f"lines={options.lines}&follow={int(options.follow)}&stream={options.stream}"
    target = f"/v1/logs?{query}" if options.name is None else model_target(options.name, f"/logs?{query}")
    answer = connection.ask("GET", target)
    if options.follow:
        yield from answer.lines()
        return
    log = answer.json()
    yield from log["lines"]
    if lost := log.get("lost"):
        _say(f"{lost['bytes']} bytes of the log of {options.name} were lost: {plain(lost['reason'])}")
    elif not log["lines"] and options.lines:
        who = f"{options.name} has written nothing" if options.name else "nobody has written anything"
        _say(f"{who} so far{_to(options.stream)}")


def _to(stream: str) -> str:
    return "" if stream == "both" else f" to {stream}"


def _say(text: str) -> None:
    print(f"muxctl: {text}", file=sys.stderr)


def _from_files(options: Namespace, show: Callable[[Line], None]) -> int:
    if options.name is None:
        raise CommandFailed("muxd is not running: name a model, to read its files", ExitCode.UNREACHABLE)
    try:
        files = _find_files(options.name, options.log_dir)
        if options.stream != "both":
            files = {name: path for name, path in files.items() if name.rpartition(" ")[2] == options.stream}
        if options.follow:
            _follow(files, options.lines, show)
        from muxd.logfiles import tail

        lines = [{"stream": name, "line": text} for name, path in files.items() for text in tail(path, options.lines)]
    except PermissionError as error:
        from muxd.errors import in_words

        down = "" if options.log_dir else "muxd is not running, and "
        message = (
            f"{down}your user may not read its logs ({in_words(error)}): use sudo, or be the user that muxd runs as"
        )
        raise CommandFailed(message, ExitCode.PERMISSION) from None
    for line in lines:
        show(line)
    if not lines and options.lines:
        folder = next(iter(files.values())).parent
        _say(f"{options.name} has written nothing{_to(options.stream)}: its files in {folder} are empty")
    return ExitCode.OK


def _follow(files: dict[str, Path], lines: int, show: Callable[[Line], None]) -> None:
    """Show the last `lines` lines of each file, then new ones until ^C."""
    from muxd.logfiles import LogReader

    with ExitStack() as opened:
        readers = {stream: opened.enter_context(LogReader(path, lines)) for stream, path in files.items()}
        while True:
            fresh = [(stream, text) for stream, reader in readers.items() for text in reader.read()]
            for stream, text in fresh:
                show({"stream": stream, "line": text})
            if not fresh:
                time.sleep(_POLL)


def _find_files(name: str, log_dir: Path | None) -> dict[str, Path]:
    """Return a model's log files by stream, from the first directory that has any.  Raises CommandFailed.

    Those of several processes of the proxy are by process and stream.
    """
    directories, names = ([log_dir], {}) if log_dir else _places_and_names()
    if name == "muxd" and name not in names:
        raise CommandFailed(
            "muxd keeps no log of its own: see journalctl -u muxd, or where its stderr goes", ExitCode.NO_MODEL
        )
    known = names.get(name, _OWN.get(name, name)).replace("/", "@")  # as muxd names the files of a worker of several
    if known[:1] != ".":
        for directory in directories:
            files = {stream: directory / f"{known}.{stream}.log" for stream in STREAMS}
            if any(file.exists() for file in files.values()):
                return files
            if known == _OWN["proxy"] and (several := _of_processes(directory)):
                return several
    down = "" if log_dir else "muxd is not running, and "
    places = ", ".join(map(str, directories))
    code = ExitCode.FAILED if name in names else ExitCode.NO_MODEL
    raise CommandFailed(f"{down}there is no log of {name} in {places}; --log-dir names another place", code)


def _of_processes(directory: Path) -> dict[str, Path]:
    """Return the log files of several processes of the proxy."""
    names = (path.name.removesuffix(".stdout.log") for path in directory.glob(f"{_OWN['proxy']}-*.stdout.log"))
    in_order = sorted(names, key=lambda name: (len(name), name))
    return {f"{name} {stream}": directory / f"{name}.{stream}.log" for name in in_order for stream in STREAMS}


def _places_and_names() -> tuple[list[Path], dict[str, str]]:
    """Return the directories that may hold logs, and the model that each name of the configuration means."""
    from muxd.config import find_config, salvage_config
    from muxd.config.default_paths import SYSTEM_LOGS, default_log_dir, default_state_dir
    from muxd.errors import ConfigError

    try:
        config = salvage_config(find_config(None), os.environ)
    except ConfigError:
        return [default_log_dir(os.environ, default_state_dir(os.environ)), SYSTEM_LOGS], {}
    names = {name: model.name for model in config.models for name in (model.name, *model.served_names)}
    return [config.daemon.log_dir, SYSTEM_LOGS], names
