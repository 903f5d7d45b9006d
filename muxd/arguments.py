"""What the command line of `muxd` may say: its commands, flags and arguments, and which file is meant as what."""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from . import __version__
from .command_help import COMMAND_HELP
from .command_parser import CommandParser
from .config import LOG_LEVELS

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
    config_help = "the configuration; else ./muxd.toml, ~/.config/muxd/muxd.toml, /etc/muxd/muxd.toml"

    start = commands.add_parser("start", help="run the supervisor, in the foreground")
    start.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    start.add_argument("--demo", action="store_true", help="no GPU, no configuration: two simulated models")
    start.add_argument("--ui", action="store_true", help="with --demo: a console, too, opened in your browser")
    start.add_argument("--log-level", choices=LOG_LEVELS, help="of muxd's own log, instead of the configuration's")
    validate = (
        "as llmux has it: start muxd, have it let this model sleep and wake, and shut it down; see muxctl validate"
    )
    start.add_argument("--validate", metavar="MODEL", help=validate)
    start.add_argument("--levels", metavar="LEVELS", help='with --validate: the sleep levels to try, such as "1,2"')
    start.add_argument("--verbose", action="store_true", help="with --validate: muxd's own log, too")
    _add_scripts(start)
    start.set_defaults(run="start", parser=start)

    proxy = commands.add_parser("proxy", help="run the OpenAI-compatible proxy by itself")
    proxy.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    proxy.add_argument("--process", type=_process, metavar="I/N", help="which of N processes it is: set by muxd")
    proxy.add_argument("--pool", type=Path, metavar="FOLDER", help="that these share: set by muxd")
    proxy.set_defaults(run="proxy", parser=proxy)

    ui = commands.add_parser("ui", help="run the console, a web page for operators, by itself")
    ui.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    ui.set_defaults(run="ui", parser=ui)

    sweep = commands.add_parser("sweep", help="end the workers and the proxy that a muxd has left running")
    sweep.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    after = (
        "in ExecStopPost= of a unit: after a crash, or muxctl shutdown --leave-workers, all is left to the next muxd"
    )
    sweep.add_argument("--after-service", action="store_true", help=after)
    sweep.set_defaults(run="sweep", parser=sweep)

    router = commands.add_parser("router", help="run sglang-router by its own command line, behind muxd's proxy")
    router.set_defaults(run="router", parser=router, flags=[])

    check = commands.add_parser("check", help="say everything that is wrong with a configuration, and on this machine")
    check.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    check.add_argument("--strict", action="store_true", help="exit 2 for warnings, too")
    no_host = "look at the files only: no interpreter, model, GPU or port of this machine"
    check.add_argument("--no-host", action="store_false", dest="host_too", help=no_host)
    _add_scripts(check)
    check.set_defaults(run="check", parser=check)

    init = commands.add_parser("init", help="write a first configuration, from what is on this machine")
    init.add_argument("--output", type=Path, metavar="FILE", default=Path("muxd.toml"), help="else ./muxd.toml")
    more = "search these folders too, beside the cache of the Hugging Face Hub"
    init.add_argument("--models", type=Path, metavar="FOLDER", nargs="+", action="extend", default=[], help=more)
    init.add_argument("--force", action="store_true", help="replace the file where there is one")
    init.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    init.add_argument("--reference", action="store_true", help="print every key with its default, and write nothing")
    init.add_argument("--schema", action="store_true", help="print a JSON schema of it, for editors, and write nothing")
    init.set_defaults(run="init", parser=init)

    replaying = commands.add_parser("replay", help="make every decision of a journal once more, and compare")
    meaning = "state_dir/decisions.journal, or the older one beside it"
    replaying.add_argument("journal", type=Path, metavar="JOURNAL", help=meaning)
    replaying.set_defaults(run="replay", parser=replaying)

    trying = commands.add_parser("whatif", help="what other settings would have done with the requests of a journal")
    trying.add_argument("journal", type=Path, metavar="JOURNAL", help=meaning)
    setting = "wait_target=10s, keep_turns=false, or MODEL.KEY=VALUE; again for more"
    trying.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help=setting)
    trying.set_defaults(run="whatif", parser=trying)

    importing = commands.add_parser("import", help="write a configuration from another program's")
    programs = (
        f"whose configuration it is: {' or '.join(PROGRAMS)}; sglangmux's scripts need none: muxd start a.sh b.sh"
    )
    importing.add_argument("program", type=_program, metavar="PROGRAM", help=programs)
    importing.add_argument(
        "file", type=Path, metavar="FILE", help="its configuration, such as config.json, config.yaml"
    )
    importing.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to write it; else to stdout")
    importing.add_argument("--force", action="store_true", help="replace the file where there is one")
    importing.set_defaults(run="import", parser=importing)

    setup = commands.add_parser("setup", help="make muxd a service of systemd")
    setup.add_argument("--systemd", action="store_true", help="the units, with the paths of this installation")
    setup.add_argument("--hardened", action="store_true", help="muxd and its models as the user muxd, without root")
    setup.add_argument("--user", action="store_true", help="a service of your own manager, not of the system's")
    setup.add_argument("--force", action="store_true", help="replace files that muxd setup has not written, too")
    setup.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    setup.add_argument(
        "--root", type=Path, metavar="DIR", default=Path("/"), help="write below DIR, for a package or an image"
    )
    setup.add_argument("--remove", action="store_true", help="stop the service and remove what muxd setup wrote")
    setup.set_defaults(run="setup", parser=setup)

    completion = commands.add_parser("completion", help="print what makes a shell complete muxd's words")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="where it goes: see its first lines")
    completion.set_defaults(run="completion", parser=completion)

    for summary in commands._choices_actions:
        told, command = COMMAND_HELP[summary.dest], commands.choices[summary.dest]
        assert summary.help is not None
        command.description = f"{summary.help[0].upper()}{summary.help[1:]}.\n\n{told.meaning}"
        command.epilog, command.formatter_class = told.epilog, RawDescriptionHelpFormatter
    return parser


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
