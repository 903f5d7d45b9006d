"""The command line of `muxd`: every command's modules are imported only when that command runs."""

import gc
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .command_parser import CommandParser
from .config import LOG_LEVELS, Config
from .errors import ConfigError, MuxdError, in_words

if TYPE_CHECKING:
    import socket

    from .config.load import ConfigOverlay
    from .pool_share import PoolShare

#: The programs whose configurations `muxd import` reads.
PROGRAMS = ("llmux", "llama-swap")

USAGE_ERROR = 2
NO_READER = 141


def main() -> None:
    """Run the command; exits with 0, 1 (failed), 2 (usage or configuration), 130 (interrupted) or 141 (no reader)."""
    try:
        _require_folder()
        with _flushed_output():
            options = _options()
        if options.run in (
            _check,
            _init,
            _setup,
            _completion,
            _import,
            _replay,
            _whatif,
        ):  # what they print is all that they do
            with _flushed_output():
                sys.exit(options.run(options))
        sys.exit(options.run(options))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except MuxdError as error:
        print(f"muxd: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _require_folder() -> None:
    """Raise ConfigError where the working directory was removed: relative paths then mean nothing."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError([f"muxd: this folder is gone ({error.strerror}); cd to another one"]) from None


@contextmanager
def _flushed_output() -> Iterator[None]:
    """Exit with 141, as a shell's tools do, if nobody reads what is printed (`| head`), and with 1 on a full disk."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(NO_READER)
    except OSError as error:
        _discard_output()
        print(f"muxd: cannot go on: {in_words(error)}", file=sys.stderr)
        sys.exit(1)


def _discard_output() -> None:
    """Point stdout at /dev/null: Python flushes it once more at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _options() -> Namespace:
    """Parse the command line.

    Scripts may stand between flags, as with sglangmux: argparse returns the scripts behind the first flag as unknown
    words, which are added here.
    """
    parser = command_line()
    if sys.argv[1:2] == ["router"] and not {"-h", "--help"} & set(sys.argv[2:3]):  # its flags are another program's
        return Namespace(run=_router, flags=sys.argv[2:])
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
    start.add_argument("--ui", action="store_true", help="with --demo: a console, too, and a link that opens it")
    start.add_argument("--log-level", choices=LOG_LEVELS, help="of muxd's own log, instead of the configuration's")
    validate = (
        "as llmux has it: start muxd, have it let this model sleep and wake, and shut it down; see muxctl validate"
    )
    start.add_argument("--validate", metavar="MODEL", help=validate)
    start.add_argument("--levels", metavar="LEVELS", help='with --validate: the sleep levels to try, such as "1,2"')
    start.add_argument("--verbose", action="store_true", help="with --validate: muxd's own log, too")
    _add_scripts(start)
    start.set_defaults(run=_start, parser=start)

    proxy = commands.add_parser("proxy", help="run the OpenAI-compatible proxy by itself")
    proxy.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    proxy.add_argument("--process", type=_process, metavar="I/N", help="which of N processes it is: set by muxd")
    proxy.add_argument("--pool", type=Path, metavar="FOLDER", help="that these share: set by muxd")
    proxy.set_defaults(run=_proxy, parser=proxy)

    ui = commands.add_parser("ui", help="run the console, a web page for operators, by itself")
    ui.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    ui.set_defaults(run=_ui, parser=ui)

    sweep = commands.add_parser("sweep", help="end the workers and the proxy that a muxd has left running")
    sweep.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    after = (
        "in ExecStopPost= of a unit: after a crash, or muxctl shutdown --leave-workers, all is left to the next muxd"
    )
    sweep.add_argument("--after-service", action="store_true", help=after)
    sweep.set_defaults(run=_sweep, parser=sweep)

    router = commands.add_parser("router", help="run sglang-router by its own command line, behind muxd's proxy")
    router.set_defaults(run=_router, parser=router, flags=[])
    router.epilog = "Its flags are those of sglang-router 0.1.8 and 0.3.2: --worker-urls URL ... --policy POLICY ..."
    check = commands.add_parser("check", help="say everything that is wrong with a configuration, and on this machine")
    check.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    check.add_argument("--strict", action="store_true", help="exit 2 for warnings, too")
    no_host = "look at the files only: no interpreter, model, GPU or port of this machine"
    check.add_argument("--no-host", action="store_false", dest="host_too", help=no_host)
    _add_scripts(check)
    check.set_defaults(run=_check, parser=check)

    init = commands.add_parser("init", help="write a first configuration, from what is on this machine")
    init.add_argument("--output", type=Path, metavar="FILE", default=Path("muxd.toml"), help="else ./muxd.toml")
    more = "search these folders too, beside the cache of the Hugging Face Hub"
    init.add_argument("--models", type=Path, metavar="FOLDER", nargs="+", action="extend", default=[], help=more)
    init.add_argument("--force", action="store_true", help="replace the file where there is one")
    init.add_argument("--print", action="store_true", help="to stdout, and write nothing")
    init.add_argument("--reference", action="store_true", help="print every key with its default, and write nothing")
    init.add_argument("--schema", action="store_true", help="print a JSON schema of it, for editors, and write nothing")
    init.set_defaults(run=_init, parser=init)

    replaying = commands.add_parser("replay", help="make every decision of a journal once more, and compare")
    meaning = "state_dir/decisions.journal, or the older one beside it"
    replaying.add_argument("journal", type=Path, metavar="JOURNAL", help=meaning)
    replaying.set_defaults(run=_replay, parser=replaying)

    trying = commands.add_parser("whatif", help="what other settings would have done with the requests of a journal")
    trying.add_argument("journal", type=Path, metavar="JOURNAL", help=meaning)
    setting = "wait_target=10s, keep_turns=false, or MODEL.KEY=VALUE; again for more"
    trying.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE", help=setting)
    trying.set_defaults(run=_whatif, parser=trying)

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
    importing.set_defaults(run=_import, parser=importing)

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
    setup.set_defaults(run=_setup, parser=setup)

    completion = commands.add_parser("completion", help="print what makes a shell complete muxd's words")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="where it goes: see its first lines")
    completion.set_defaults(run=_completion, parser=completion)
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


def _added(options: Namespace) -> "ConfigOverlay | None":
    """Return what the command line adds to the configuration, or None where it adds nothing."""
    flags = _sglangmux_args(options)
    if options.llmux is None:
        return flags
    from .importers.import_overlay import ImportOverlay, JointOverlay

    imported = ImportOverlay("llmux", options.llmux.absolute())
    return JointOverlay((imported, flags)) if flags is not None else imported


def _sglangmux_args(options: Namespace) -> "ConfigOverlay | None":
    """Return sglangmux's scripts and flags, or None where there are none."""
    flags = {
        "host": options.host,
        "listen_port": options.listen_port,
        "upstream_timeout": options.upstream_timeout_secs,
        "start_timeout": options.model_ready_timeout_secs,
        "switch_timeout": options.model_switch_timeout_secs,
        "log_dir": options.log_dir,
        "allow_anonymous": options.allow_anonymous,
    }
    if not options.scripts and all(value is None for value in flags.values()):
        return None
    from .importers.drop_in import SglangmuxArgs

    return SglangmuxArgs(tuple(options.scripts), **flags)


def _start(options: Namespace) -> int:
    if options.validate is None and (options.levels is not None or options.verbose):
        flag, meant = ("--verbose", "; did you mean --log-level debug?") if options.verbose else ("--levels", "")
        raise ConfigError([f"muxd start: {flag} goes with --validate MODEL{meant}"])
    if options.demo:
        return _demo(options)
    if options.ui:
        raise ConfigError(["muxd start: --ui goes with --demo; else write listen under [ui] in muxd.toml"])
    added = _added(options)
    path = _find_configuration(options.config, added)  # searched once, so that a reload never finds another file
    if options.validate is not None:
        return _validate(options, lambda: _load(path, added))
    return _run_daemon(lambda: _load(path, added).with_log_level(options.log_level), can_upgrade=True)


def _sweep(options: Namespace) -> int:
    from .config.default_paths import find_config
    from .daemon import sweep_left
    from .own_log import setup_logging

    config = _load(find_config(options.config, os.environ).absolute())
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _run(sweep_left, config, os.environ.get("SERVICE_RESULT", "") if options.after_service else None)
    return 0


def _router(options: Namespace) -> int:
    from .importers.router_flags import RouterCommand

    added = RouterCommand.of(options.flags)
    return _run_daemon(lambda: _load(None, added), can_upgrade=True)


def _validate(options: Namespace, read: Callable[[], Config]) -> int:
    from .validated import validate_once

    config = read()
    named = {name for model in config.models for name in (model.name, *model.served_names)}
    if options.validate not in named:
        from .config.names import did_you_mean

        raise ConfigError([f"muxd start: no model {options.validate}; {did_you_mean(options.validate, sorted(named))}"])
    level = options.log_level or ("debug" if options.verbose else "error")

    def run_muxd() -> int:
        return _run_daemon(lambda: read().with_log_level(level))

    return validate_once(run_muxd, config.daemon.socket, options.validate, options.levels)


def _demo(options: Namespace) -> int:
    import tempfile

    from .demo import FOLDER, PORT, free_port, write_demo_config
    from .ports import CannotListen, listen_at

    port, options.listen_port = PORT if options.listen_port is None else options.listen_port or free_port(), None
    if options.config is not None or _added(options) is not None:
        raise ConfigError(["--demo brings its own models and settings; beside it goes --listen-port, and no more"])
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        path = write_demo_config(Path(folder), port, free_port() if options.ui else None)
        demo = _load(path)
        try:
            listen_at(demo.proxy.host, port).close()
        except CannotListen as error:
            taken = error.message.removesuffix("; see [proxy] listen")
            raise CannotListen(f"{taken}: muxd start --demo --listen-port PORT") from None
        names = " and ".join(model.served_names[0] for model in demo.models)
        where = f"http://{demo.proxy.host}:{demo.proxy.port}/v1"
        print(f"demo: two simulated models, no GPU: {names} at {where}", file=sys.stderr)
        print(f"muxctl finds it where no other muxd is; else: export MUXD_SOCKET={demo.daemon.socket}", file=sys.stderr)
        if options.ui:
            print(f"the console is at http://{demo.ui.listen}/ui/; muxctl ui --open lets you operate", file=sys.stderr)
        return _run_daemon(lambda: _load(path).with_log_level(options.log_level))


def _run_daemon(read: Callable[[], Config], *, can_upgrade: bool = False) -> int:
    """Run the supervisor until it is shut down; `read` reads the configuration, now and for each reload.

    `can_upgrade`: the command line means the same when it is executed anew.
    """
    from .daemon import run_daemon
    from .notify import Notifier
    from .own_log import setup_logging
    from .successor import TRIAL, Successor, try_out

    config = read()
    if (places := os.environ.get(TRIAL)) is not None:
        try_out(config, places)
        return 0
    successor = Successor(sys.orig_argv, os.environ) if can_upgrade else None
    notifier = Notifier.from_environ(os.environ)
    _set_process_name(b"muxd")
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    gc.freeze()  # modules are never freed: collecting over them would block the loop for 20 ms
    _run(run_daemon, config, read, notifier, successor)
    return 0


def _proxy(options: Namespace) -> int:
    from .config.default_paths import find_config
    from .config.load import load_proxy_config

    path = find_config(options.config, os.environ)
    config = load_proxy_config(path, os.environ)
    from .notify import Notifier
    from .own_log import setup_logging
    from .pool_share import processes_of
    from .ports import METRICS

    notifier = Notifier.from_environ(os.environ)
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _set_process_name(b"muxd-proxy")
    metrics = notifier.take(METRICS, config.proxy.metrics_listen)
    share = _share(options)
    if share is None and processes_of(config.proxy.processes) > 1:
        from .proxy.telemetry.metrics_port import listen_for_metrics
        from .proxy_parent import run_processes

        if metrics is None and config.proxy.metrics_listen is not None:
            metrics = listen_for_metrics(*config.proxy.metrics_listen, notifier)
        return run_processes(config, path.absolute(), [passed for _, passed in notifier.kept], metrics)
    from .proxy.app import run_proxy

    with _ungrouped_errors():
        run_proxy(config, _passed_socket(notifier.kept), metrics, notifier, share)
    return 0


def _share(options: Namespace) -> "PoolShare | None":
    """Return which of several processes of a proxy this one is, or None where it is the only one."""
    from .pool_share import PoolShare

    if (options.process is None) != (options.pool is None):
        options.parser.error("--process and --pool go together: both are set by muxd")
    if options.process is None:
        return None
    number, count = options.process
    return PoolShare(number, count, options.pool)


def _ui(options: Namespace) -> int:
    from .config.default_paths import find_config
    from .config.load import load_proxy_config
    from .notify import Notifier
    from .own_log import setup_logging
    from .ui.console_server import run_console

    config = load_proxy_config(find_config(options.config, os.environ), os.environ)
    notifier = Notifier.from_environ(os.environ)
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _set_process_name(b"muxd-ui")
    _run(run_console, config, _passed_socket(notifier.kept), notifier)
    return 0


def _check(options: Namespace) -> int:
    from .check.verb import check

    return check(options.config, os.environ, _added(options), strict=options.strict, host=options.host_too)


def _init(options: Namespace) -> int:
    if options.reference:
        from .config.reference import reference

        sys.stdout.write(reference())
        return 0
    if options.schema:
        from .config.json_schema import schema_text

        sys.stdout.write(schema_text())
        return 0
    from .init.verb import init

    return init(options, os.environ)


def _completion(options: Namespace) -> int:
    from .completion import completion

    sys.stdout.write(completion(options.shell, command_line()))
    return 0


def _setup(options: Namespace) -> int:
    from .setup.verb import setup

    return setup(options, os.environ)


def _replay(options: Namespace) -> int:
    from .history.replay import replay

    return replay(options.journal)


def _whatif(options: Namespace) -> int:
    from .history.whatif import whatif

    return whatif(options.journal, options.changes)


def _import(options: Namespace) -> int:
    from .importers.verb import import_configuration

    return import_configuration(options, os.environ)


def _find_configuration(explicit: Path | None, added: "ConfigOverlay | None") -> Path | None:
    """Return the configuration file to use, or None for scripts that need none."""
    from .config.default_paths import find_config

    alone = explicit is None and added is not None and added.stands_alone
    return None if alone else find_config(explicit, os.environ).absolute()


def _load(path: Path | None, added: "ConfigOverlay | None" = None) -> Config:
    from .config.load import load_config

    return load_config(path, os.environ, added)


def _passed_socket(passed: "list[tuple[str, socket.socket]]") -> "socket.socket | None":
    """Return the clients' socket that muxd or systemd has passed (sd_listen_fds(3)), under any name, or None.

    Raises ConfigError where there is more than one.
    """
    if len(passed) > 1:
        said = f"the proxy was passed {len(passed)} sockets and takes one: leave one ListenStream= in its unit"
        raise ConfigError([said])
    return passed[0][1] if passed else None


def _run(main: "Callable[..., Awaitable[None]]", *args: object) -> None:
    import trio

    with _ungrouped_errors():
        trio.run(main, *args)


def _set_process_name(name: bytes) -> None:
    """Set the name of this process, so that a launch script that begins with `pkill python` does not end muxd."""
    from .shim.processes import PR_SET_NAME, prctl

    prctl(PR_SET_NAME, name)


@contextmanager
def _ungrouped_errors() -> Iterator[None]:
    """Raise a MuxdError as itself, out of the exception groups that trio's nurseries make."""
    try:
        yield
    except* MuxdError as group:
        raise _first_error(group) from None


def _first_error(group: BaseExceptionGroup[MuxdError]) -> MuxdError:
    inner = group.exceptions[0]
    return _first_error(inner) if isinstance(inner, BaseExceptionGroup) else inner


if __name__ == "__main__":
    main()
