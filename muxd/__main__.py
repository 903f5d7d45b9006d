"""The command line of `muxd`: every command's modules are imported only when that command runs."""

import gc
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import read_arguments
from .errors import ConfigError, MuxdError, in_words

if TYPE_CHECKING:
    import socket

    from .config import Config
    from .config.load import ConfigOverlay
    from .pool_share import PoolShare
    from .reading_clock import ReadingClock

USAGE_ERROR = 2
NO_READER = 141


def main() -> None:
    """Run the command; exits with 0, 1 (failed), 2 (usage or configuration), 130 (interrupted) or 141 (no reader)."""
    gc.disable()  # while modules come: a tenth of the CPU of a start went into collections that found nothing
    try:
        _require_folder()
        with _flushed_output():
            options = read_arguments()
        if (prints := _PRINTS.get(options.run)) is not None:
            with _flushed_output():
                sys.exit(prints(options))
        sys.exit(_SERVES[options.run](options))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except MuxdError as error:
        print(f"muxd: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _collect_garbage()  # at its exit Python goes through all that is not frozen


def _collect_garbage() -> None:
    """Let garbage be collected from now on, but not among the modules that are there: they are never freed.

    To go through them would block a loop for 20 ms.
    """
    gc.freeze()
    gc.enable()


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
    _collect_garbage()
    _run(sweep_left, config, os.environ.get("SERVICE_RESULT", "") if options.after_service else None)
    if not options.after_service:
        print("nothing of an earlier muxd is left running")
    return 0


def _router(options: Namespace) -> int:
    from .engines.routers.installed_parser import refuse_args
    from .importers.router_flags import RouterCommand

    added = RouterCommand.of(options.flags)

    def read() -> "Config":
        config = _load(None, added)
        refuse_args(config.models, os.environ)
        return config

    return _run_daemon(read, can_upgrade=True)


def _validate(options: Namespace, read: "Callable[[], Config]") -> int:
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
    from .demo import PORT, demo_folder, free_port, killed_demo, open_console, write_demo_config
    from .ports import CannotListen, listen_at

    port, options.listen_port = PORT if options.listen_port is None else options.listen_port or free_port(), None
    if options.config is not None or _added(options) is not None:
        raise ConfigError(["--demo brings its own models and settings; beside it goes --listen-port, and no more"])
    with demo_folder() as folder:
        path = write_demo_config(folder, port, free_port() if options.ui else None)
        demo = _load(path)
        try:
            listen_at(demo.proxy.host, port).close()
        except CannotListen as error:
            taken = error.message.removesuffix("; see [proxy] listen")
            if (killed := killed_demo(port)) is not None:
                left = f"an earlier demo was killed: end what is left of it: muxd sweep --config {killed}"
                raise CannotListen(f"{taken}; {left}") from None
            raise CannotListen(f"{taken}: muxd start --demo --listen-port PORT") from None
        names = " and ".join(model.served_names[0] for model in demo.models)
        where = f"http://{demo.proxy.host}:{demo.proxy.port}/v1"
        print(f"demo: two simulated models, no GPU: {names} at {where}", file=sys.stderr)
        print(f"muxctl finds it where no other muxd is; else: export MUXD_SOCKET={demo.daemon.socket}", file=sys.stderr)
        if options.ui:
            assert demo.ui.listen is not None
            print(f"the console is at http://{demo.ui.listen}/ui/; muxctl ui --open lets you operate", file=sys.stderr)
            open_console(demo.daemon.socket, demo.ui.listen.port)
        return _run_daemon(lambda: _load(path).with_log_level(options.log_level))


def _run_daemon(read: "Callable[[], Config]", *, can_upgrade: bool = False) -> int:
    """Run the supervisor until it is shut down; `read` reads the configuration, now and for each reload.

    `can_upgrade`: the command line means the same when it is executed anew.
    """
    from .daemon import run_daemon
    from .notify import Notifier
    from .own_log import setup_logging
    from .reading_clock import ReadingClock
    from .successor import TRIAL, Successor, try_out

    config = read()
    if (places := os.environ.get(TRIAL)) is not None:
        try_out(config, places)
        return 0
    successor = Successor(sys.orig_argv, os.environ) if can_upgrade else None
    notifier = Notifier.from_environ(os.environ)
    _set_process_name(b"muxd")
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _collect_garbage()
    _run(run_daemon, config, read, notifier, successor, clock=ReadingClock())
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
        from .frontends.proxy_parent import run_processes
        from .proxy.telemetry.metrics_port import listen_for_metrics

        if metrics is None and config.proxy.metrics_listen is not None:
            metrics = listen_for_metrics(*config.proxy.metrics_listen, notifier)
        _collect_garbage()
        return run_processes(config, path.absolute(), [passed for _, passed in notifier.kept], metrics, notifier)
    from .proxy.app import run_proxy

    _collect_garbage()
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
    _collect_garbage()
    _run(run_console, config, _passed_socket(notifier.kept), notifier)
    return 0


def _check(options: Namespace) -> int:
    from .check.verb import check

    _collect_garbage()
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

    _collect_garbage()
    return init(options, os.environ)


def _completion(options: Namespace) -> int:
    from .arguments import command_line
    from .completion import completion

    sys.stdout.write(completion(options.shell, command_line()))
    return 0


def _setup(options: Namespace) -> int:
    from .setup.verb import setup

    return setup(options, os.environ)


def _replay(options: Namespace) -> int:
    from .history.replay import replay

    _collect_garbage()
    return replay(options.journal)


def _whatif(options: Namespace) -> int:
    from .history.whatif import whatif

    _collect_garbage()
    return whatif(options.journal, options.changes)


def _import(options: Namespace) -> int:
    from .importers.verb import import_configuration

    _collect_garbage()
    return import_configuration(options, os.environ)


def _find_configuration(explicit: Path | None, added: "ConfigOverlay | None") -> Path | None:
    """Return the configuration file to use, or None for scripts that need none."""
    from .config.default_paths import find_config

    alone = explicit is None and added is not None and added.stands_alone
    return None if alone else find_config(explicit, os.environ).absolute()


def _load(path: Path | None, added: "ConfigOverlay | None" = None) -> "Config":
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


def _run(main: "Callable[..., Awaitable[None]]", *args: object, clock: "ReadingClock | None" = None) -> None:
    import trio

    with _ungrouped_errors():
        trio.run(main, *args, clock=clock)


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


#: Commands for which what they print is all that they do.
_PRINTS = {
    "check": _check,
    "init": _init,
    "setup": _setup,
    "completion": _completion,
    "import": _import,
    "replay": _replay,
    "whatif": _whatif,
}

#: Commands that run, or end, processes.
_SERVES = {"start": _start, "proxy": _proxy, "ui": _ui, "sweep": _sweep, "router": _router}


if __name__ == "__main__":
    main()
