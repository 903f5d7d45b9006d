"""`muxctl logs [NAME]`: the log of a model, of muxd, or of all, from muxd, or from the files if muxd is down."""

import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from muxctl.control_connection import ControlConnection, model_target
from muxctl.display.tables import plain, visible
from muxctl.exit_codes import EVERYWHERE, MEANINGS, CommandFailed, ExitCode
from muxctl.socket_path import find_socket
from muxctl.times import stamp, time_window
from muxd.log_names import STREAMS, file_name, log_files, logged_names, worker_name

if TYPE_CHECKING:
    from muxd.merged_logs import LogWindow

MEANING = """\
What the model's processes wrote to stdout and stderr, in the order in which it
came, across rotated files.  NAME may also be one of muxd's own: `muxd`,
`proxy`, `router` for the routers of all groups, or `ui` for the console.
Without NAME it is that of all of them, each line behind its model's name.
On a terminal control characters are written out, as \\x1b; not into a pipe.
When muxd is down the files are read here, from the log directory of the
configuration that muxd start would find, or from --log-dir."""
EXAMPLES = {
    "muxctl logs qwen": "the last 100 lines",
    "muxctl logs qwen -f": "and what comes from now on",
    "muxctl logs -t --since 10min": "all of ten minutes, with times",
    "muxctl logs qwen --since 18:00 --until 18:05": "what it said then",
    "muxctl logs qwen -n 1000 --stream stderr": "more, of one stream",
    "muxctl logs muxd": "what muxd itself had to say",
}
EXITS = EVERYWHERE | {
    ExitCode.NO_MODEL: MEANINGS[ExitCode.NO_MODEL],
    ExitCode.UNREACHABLE: "muxd ended while its log was followed",
    ExitCode.INTERRUPTED: "interrupted, as -f is meant to end",
}

_POLL = 0.2  # seconds between two reads of a file that is followed

_OWN = {"proxy": "muxd-proxy", "ui": "muxd-ui"}  # log names of muxd's own children, by the names that users type

Line = dict[str, Any]  # {"stream": "stderr", "line": "...", "time": seconds since 1970, or None}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or what clients call it (all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until ^C")
    count = "the last N lines (100, or with --since or --until all)"
    parser.add_argument("-n", "--lines", type=_count, metavar="N", help=count)
    parser.add_argument("--since", metavar="TIME", help='"10min" ago, "18:04" or "2026-11-29 18:04:05"')
    parser.add_argument("--until", metavar="TIME", help="likewise")
    parser.add_argument("-t", "--times", action="store_true", help="each line behind the time at which it came")
    parser.add_argument("--stream", choices=[*STREAMS, "both"], default="both", help="which of its two outputs (both)")
    parser.add_argument("--raw", action="store_true", help="control characters as they are, on a terminal, too")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="read the files in DIR, without asking muxd")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def run(options: Namespace) -> int:
    if options.follow and options.until is not None:
        raise CommandFailed("-f goes on for ever: leave --until out", ExitCode.USAGE)
    window = time_window(options.since, options.until)
    if options.lines is not None or not window:
        window["lines"] = 100 if options.lines is None else options.lines
    show = _show(options)
    connection = None if options.log_dir else _connected(options.socket)
    if connection is None:
        return _from_files(options, window, show)
    with connection:
        for line in _from_muxd(connection, options, window):
            show(line)
    if options.follow:
        raise CommandFailed("muxd has ended", ExitCode.UNREACHABLE)
    return ExitCode.OK


def _show(options: Namespace) -> Callable[[Line], None]:
    """Return what prints a line as the options ask for.

    On a terminal control characters are written out: no model may steer it.
    """
    written_out = sys.stdout.isatty() and not options.raw

    def show(line: Line) -> None:
        if options.json:
            print(json.dumps(line), flush=True)
            return
        if "line" not in line:
            print(f"... {line.get('missed', 'some')} lines were missed", flush=True)
            return
        worker = line.get("stream", "").rpartition(" ")[0]  # where a model has several
        came = f"{_time_of(line)} " if options.times else ""
        text = visible(line["line"]) if written_out else line["line"]
        print(f"{came}{worker + ': ' if worker else ''}{text}", flush=True)

    return show


def _time_of(line: Line) -> str:
    """Return the time of a line; dashes where nobody has kept it, as an earlier muxd did not."""
    return "-" * 29 if line.get("time") is None else stamp(line["time"], "milliseconds")


def _connected(socket: str | None) -> ControlConnection | None:
    """Connect to muxd; return None if it is down.  Raises CommandFailed for other failures, as a lack of permission."""
    try:
        return ControlConnection(find_socket(socket))
    except CommandFailed as failure:
        if failure.code != ExitCode.UNREACHABLE:
            raise
        return None


def _from_muxd(connection: ControlConnection, options: Namespace, window: dict[str, float]) -> Iterator[Line]:
    query = urlencode({**window, "follow": int(options.follow), "stream": options.stream})
    target = f"/v1/logs?{query}" if options.name is None else model_target(options.name, f"/logs?{query}")
    answer = connection.ask("GET", target)
    if options.follow:
        yield from answer.lines()
        return
    if "lines" not in window:
        found = False
        for line in answer.lines():
            found = True
            yield line
        if not found:
            _say_nothing(options)
        return
    log = answer.json()
    yield from log["lines"]
    if lost := log.get("lost"):
        _say(f"{lost['bytes']} bytes of the log of {options.name} were lost: {plain(lost['reason'])}")
    elif not log["lines"] and window["lines"]:
        _say_nothing(options)


def _say_nothing(options: Namespace, folder: Path | None = None) -> None:
    who = f"{options.name} has written nothing" if options.name else "nobody has written anything"
    when = " in that time" if options.since or options.until else " so far"
    _say(f"{who}{when}{_to(options.stream)}{f' into the files in {folder}' if folder else ''}")


def _to(stream: str) -> str:
    return "" if stream == "both" else f" to {stream}"


def _say(text: str) -> None:
    print(f"muxctl: {text}", file=sys.stderr)


def _from_files(options: Namespace, window: dict[str, float], show: Callable[[Line], None]) -> int:
    try:
        files = _all_files(options.log_dir) if options.name is None else _find_files(options.name, options.log_dir)
        if options.stream != "both":
            files = {name: path for name, path in files.items() if name.rpartition(" ")[2] == options.stream}
        from muxd.merged_logs import LogWindow

        lines = int(window["lines"]) if "lines" in window else None
        found = _read(files, LogWindow(lines, window.get("since"), window.get("until")), show, follow=options.follow)
    except PermissionError as error:
        from muxd.errors import in_words

        down = "" if options.log_dir else "muxd is not running, and "
        message = (
            f"{down}your user may not read its logs ({in_words(error)}): use sudo, or be the user that muxd runs as"
        )
        raise CommandFailed(message, ExitCode.PERMISSION) from None
    if not found and lines != 0:
        _say_nothing(options, next(iter(files.values())).parent)
    return ExitCode.OK


def _read(files: dict[str, Path], window: "LogWindow", show: Callable[[Line], None], *, follow: bool) -> bool:
    """Show what is wanted of these files, with `follow` what is added until ^C, too; return whether there was any."""
    from muxd.merged_logs import MergedLogs

    found = False
    with MergedLogs(files, window) as merged:
        while follow or window.lines is None:
            if lines := merged.read():
                found = True
            elif follow:
                time.sleep(_POLL)
            else:
                break
            for line in lines:
                show(line)
        for line in merged.rest():
            found = True
            show(line)
    return found


def _all_files(log_dir: Path | None) -> dict[str, Path]:
    """Return all log files, by worker and stream, of the first directory that has any.  Raises CommandFailed."""
    directories = [log_dir] if log_dir else _places_and_names()[0]
    own = {name: typed for typed, name in _OWN.items()}
    for directory in directories:
        files = {
            f"{own.get(name, worker_name(name))} {stream}": log_files(directory, name)[stream]
            for stream in STREAMS
            for name in logged_names(directory, stream)
        }
        if files:
            return files
    down = "" if log_dir else "muxd is not running, and "
    places = ", ".join(map(str, directories))
    raise CommandFailed(f"{down}there are no logs in {places}; --log-dir names another place", ExitCode.FAILED)


def _find_files(name: str, log_dir: Path | None) -> dict[str, Path]:
    """Return a model's log files by stream, from the first directory that has any.  Raises CommandFailed.

    Those of several processes of the proxy are by process and stream.
    """
    directories, names = ([log_dir], {}) if log_dir else _places_and_names()
    known = file_name(names.get(name, _OWN.get(name, name)))
    if known[:1] != ".":
        for directory in directories:
            files = log_files(directory, known)
            if any(file.exists() for file in files.values()):
                return files
            if name == "router" and (routers := _of_routers(directory)):
                return routers
            if known == _OWN["proxy"] and (several := _of_processes(directory)):
                return several
    down = "" if log_dir else "muxd is not running, and "
    places = ", ".join(map(str, directories))
    code = ExitCode.FAILED if name in names else ExitCode.NO_MODEL
    raise CommandFailed(f"{down}there is no log of {name} in {places}; --log-dir names another place", code)


def _of_routers(directory: Path) -> dict[str, Path]:
    """Return the log files of the routers of all groups."""
    return {
        f"{worker_name(name)} {stream}": log_files(directory, name)[stream]
        for stream in STREAMS
        for name in logged_names(directory, stream, "*@router")
    }


def _of_processes(directory: Path) -> dict[str, Path]:
    """Return the log files of several processes of the proxy."""
    names = sorted(logged_names(directory, "stdout", f"{_OWN['proxy']}-*"), key=len)
    return {f"{name} {stream}": file for name in names for stream, file in log_files(directory, name).items()}


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
