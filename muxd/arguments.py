"""What the command line of `muxd` may say: its commands, flags and arguments, and which file is meant as what."""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from . import __version__
from .command_help import COMMAND_HELP
from .command_parser import CommandParser
from .log_levels import LOG_LEVELS

#: The programs whose configurations `muxd import` reads.
PROGRAMS = ("llmux", "llama-swap")


def read_arguments() -> Namespace:
    """Parse the command line; `run` is the command's name. Exits with 2 for words that mean nothing.

    Scripts may stand between flags, as with sglangmux: argparse returns the scripts behind the first flag as unknown
    words, which are added here.
    """
    parser = command_line()
    if sys.argv[1:2] == ["router"] and not {"-h", "--help"} & set(sys.argv[2:3]):  # its flags are another program's
        return Namespace(run="router", flags=sys.argv[2:])
    options, rest = parser.parse_known_args()
    if any(word.startswith("-") or not hasattr(options, "scripts") for word in rest):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.scripts += map(Path, rest)
    _take_configuration(options, parser)
    return options


def _take_configuration(options: Namespace, parser: ArgumentParser) -> None:
    """Use a TOML file among the scripts as the value of --config; exits with 2 for files that are of another kind."""
    scripts = getattr(options, "scripts", [])
    for file in scripts:
        if wrong := _why_no_script(file):
            parser.error(wrong)
    if (named := getattr(options, "config", None)) is not None and (wrong := _why_no_configuration(named)):
        parser.error(wrong)
    files = [file for file in scripts if file.suffix.lower() == ".toml"]
    if not files:
        return
    if len(files) > 1 or options.config is not None:
        named = " and ".join(map(str, [*([options.config] if options.config is not None else []), *files]))
        parser.error(f"{named}: one configuration at a time; further files go into the folder muxd.d beside it")
    (options.config,) = files
    options.scripts = [file for file in scripts if file not in files]


def _why_no_script(file: Path) -> str:
    """Return what a file is instead of a launch script and how to pass it, or "" where nothing shows that."""
    if os.path.isdir(file):  # Path.is_dir raises for a folder that this user may not enter
        inside = file / "muxd.toml"
        remedy = (
            f"its configuration is {inside}" if os.path.isfile(inside) else "give a launch script or a configuration"
        )
        return f"{file} is a folder: {remedy}"
    if file.suffix.lower() != ".toml" and _LIKE_TOML.match(_first_bytes(file)):
        return f"{file} looks like a configuration: --config {file}"
    return ""


def _why_no_configuration(file: Path) -> str:
    """Return what a file is instead of a configuration and how to pass it, or "" where nothing shows that."""
    if os.path.isdir(file):
        return _why_no_script(file)
    text = _first_bytes(file)
    if text.startswith("#!") or (file.suffix == ".sh" and not _LIKE_TOML.match(text)):
        return f"{file} is a launch script: give it without --config"
    return ""


#: Comments, then a table's head or a key with its value.  A shell's assignment has no space before "=".
_LIKE_TOML = re.compile(
    r"(?:[ \t\r]*(?:#(?!!).*)?\n)*[ \t]*"
    r"(?:\[{1,2}[\w\"'][\w.\"' -]*\]{1,2}[ \t\r]*(?:#.*)?(?:\n|$)|[\w.-]+[ \t]+=[ \t]*[\[{\"'\w])"
)


def _first_bytes(file: Path) -> str:
    """Return the first 4 KiB of a file, or "" where it cannot be read: whoever opens it in earnest reports that."""
    try:
        if not os.path.isfile(file):  # opening a pipe would wait for a writer
            return ""
        with file.open("rb") as opened:
            return opened.read(4096).decode(errors="replace").removeprefix("\ufeff")
    except OSError:
        return ""


def command_line() -> ArgumentParser:
    """Return the parser of the whole command line."""
    parser = CommandParser(prog="muxd", description="Many models on one GPU host behind one endpoint.")
    parser.add_argument("--version", "-V", action="version", version=f"muxd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, add_to) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        command.set_defaults(run=name, parser=command)
        add_to(command)
        told = COMMAND_HELP[name]
        command.description = f"{summary[0].upper()}{summary[1:]}.\n\n{told.meaning}"
        command.epilog, command.formatter_class = told.epilog, RawDescriptionHelpFormatter
    return parser


_CONFIG = "the configuration; else ./muxd.toml, ~/.config/muxd/muxd.toml, /etc/muxd/muxd.toml"
_JOURNAL = "state_dir/decisions.journal, or the older one beside it"


def _add_to_start(command: ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    command.add_argument("--demo", action="store_true", help="no GPU, no configuration: two simulated models")
    command.add_argument("--ui", action="store_true", help="with --demo: a console, too, opened in your browser")
    command.add_argument("--log-level", choices=LOG_LEVELS, help="of muxd's own log, instead of the configuration's")
    validate = (
        "as llmux has it: start muxd, have it let this model sleep and wake, and shut it down; see muxctl validate"
    )
    command.add_argument("--validate", metavar="MODEL", help=validate)
    command.add_argument("--levels", metavar="LEVELS", help='with --validate: the sleep levels to try, such as "1,2"')
    command.add_argument("--verbose", action="store_true", help="with --validate: muxd's own log, too")
    _add_scripts(command)


def _add_to_proxy(command: ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    command.add_argument("--process", type=_process, metavar="I/N", help="which of N processes it is: set by muxd")
    command.add_argument("--pool", type=Path, metavar="FOLDER", help="that these share: set by muxd")


def _add_to_ui(command: ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)


def _add_to_sweep(command: ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    after = (
        "in ExecStopPost= of a unit: after a crash, or muxctl shutdown --leave-workers, all is left to the next muxd"
    )
    command.add_argument("--after-service", action="store_true", help=after)


def _add_to_router(command: ArgumentParser) -> None:
    command.set_defaults(flags=[])


def _add_to_check(command: ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    command.add_argument("--strict", action="store_true", help="exit 2 for warnings, too")
    no_host = "look at the files only: no interpreter, model, GPU or port of this machine"
    command.add_argument("--no-host", action="store_false", dest="host_too", help=no_host)
    _add_scripts(command)


def _add_to_init(command: ArgumentParser) -> None:
    command.add_argument("--output", type=Path, metavar="FILE", default=Path("muxd.toml"), help="else ./muxd.toml")
    more = "search these folders too, beside the cache of the Hugging Face Hub"
    command.add_argument("--models", type=Path, metavar="FOLDER", nargs="+", action="extend", default=[], help=more)
    command.add_argument("--force", action="store_true", help="replace the file where there is one")
    command.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    command.add_argument("--reference", action="store_true", help="print every key with its default, and write nothing")
    command.add_argument(
        "--schema", action="store_true", help="print a JSON schema of it, for editors, and write nothing"
    )


def _add_to_replay(command: ArgumentParser) -> None:
    command.add_argument("journal", type=Path, metavar="JOURNAL", help=_JOURNAL)


def _add_to_whatif(command: ArgumentParser) -> None:
    command.add_argument("journal", type=Path, metavar="JOURNAL", help=_JOURNAL)
    setting = "wait_target=10s, keep_turns=false, or MODEL.KEY=VALUE; again for more"
    command.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help=setting)


def _add_to_import(command: ArgumentParser) -> None:
    programs = (
        f"whose configuration it is: {' or '.join(PROGRAMS)}; sglangmux's scripts need none: muxd start a.sh b.sh"
    )
    command.add_argument("program", type=_program, metavar="PROGRAM", help=programs)
    command.add_argument("file", type=Path, metavar="FILE", help="its configuration, such as config.json, config.yaml")
    command.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to write it; else to stdout")
    command.add_argument("--force", action="store_true", help="replace the file where there is one")


def _add_to_setup(command: ArgumentParser) -> None:
    command.add_argument("--systemd", action="store_true", help="the units, with the paths of this installation")
    command.add_argument("--hardened", action="store_true", help="muxd and its models as the user muxd, without root")
    command.add_argument("--user", action="store_true", help="a service of your own manager, not of the system's")
    command.add_argument("--force", action="store_true", help="replace files that muxd setup has not written, too")
    command.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    command.add_argument(
        "--root", type=Path, metavar="DIR", default=Path("/"), help="write below DIR, for a package or an image"
    )
    command.add_argument("--remove", action="store_true", help="stop the service and remove what muxd setup wrote")


def _add_to_completion(command: ArgumentParser) -> None:
    command.add_argument("shell", choices=("bash", "zsh", "fish"), help="where it goes: see its first lines")


#: The commands, in the order of the help: what each does, and what adds its flags and arguments.
_COMMANDS = {
    "start": ("run the supervisor, in the foreground", _add_to_start),
    "proxy": ("run the OpenAI-compatible proxy by itself", _add_to_proxy),
    "ui": ("run the console, a web page for operators, by itself", _add_to_ui),
    "sweep": ("end the workers and the proxy that a muxd has left running", _add_to_sweep),
    "router": ("run sglang-router by its own command line, behind muxd's proxy", _add_to_router),
    "check": ("say everything that is wrong with a configuration, and on this machine", _add_to_check),
    "init": ("write a first configuration, from what is on this machine", _add_to_init),
    "replay": ("make every decision of a journal once more, and compare", _add_to_replay),
    "whatif": ("what other settings would have done with the requests of a journal", _add_to_whatif),
    "import": ("write a configuration from another program's", _add_to_import),
    "setup": ("make muxd a service of systemd", _add_to_setup),
    "completion": ("print what makes a shell complete muxd's words", _add_to_completion),
}


def _add_scripts(command: ArgumentParser) -> None:
    """Add the arguments of sglangmux's command line."""
    scripts = (
        "launch scripts, one server each: loaded in this order; with --config beside its models, else alone; "
        "a file that ends in .toml is the configuration"
    )
    command.add_argument("scripts", type=Path, nargs="*", metavar="SCRIPT", help=scripts)
    llmux = "a configuration of llmux, in place of one of muxd's; muxd import llmux FILE writes it anew"
    command.add_argument("--llmux", type=Path, metavar="FILE", help=llmux)
    command.add_argument("--host", help="where the proxy listens, instead of the configuration's")
    anybody = "let other machines in without an API key, where --host or the configuration lets them in at all"
    command.add_argument("--allow-anonymous", action="store_true", default=None, help=anybody)
    command.add_argument("--listen-port", type=_port, metavar="PORT")
    for flag, what in (
        ("--upstream-timeout-secs", "to the first byte of an answer"),
        ("--model-ready-timeout-secs", "from a model's start until it is ready"),
        ("--model-switch-timeout-secs", "that a request waits for its model"),
    ):
        command.add_argument(flag, type=_seconds, metavar="SECONDS", help=what)
    command.add_argument("--log-dir", type=Path, metavar="DIR", help="of the models' output")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ArgumentTypeError(f"{text!r} is not a port; write a number up to 65535")
    return int(text)


def _process(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ArgumentTypeError(f"{text!r} is not a process of several; write 2/4 for the second of four")
    return int(number), int(count)


def _program(text: str) -> str:
    if text not in PROGRAMS:
        raise ArgumentTypeError(f"{text!r} is not known; there are {' and '.join(PROGRAMS)}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a time; write seconds")
    return seconds
