"""`muxd`: which process to be.  Each is imported only when it is the one."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .config import Config
from .errors import ConfigError, MuxdError

if TYPE_CHECKING:
    import socket

USAGE_ERROR = 2


def main() -> None:
    """The entry point; exits 0, 1 (failed) or 2 (usage or configuration)."""
    options = _parser().parse_args()
    try:
        sys.exit(options.run(options))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except MuxdError as error:
        print(f"muxd: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="muxd", description="Many models on one GPU host behind one endpoint.")
    parser.add_argument("--version", action="version", version=f"muxd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    config_help = "the configuration; else ./muxd.toml, ~/.config/muxd/muxd.toml, /etc/muxd/muxd.toml"

    start = commands.add_parser("start", help="run the supervisor, in the foreground")
    start.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    start.add_argument("--demo", action="store_true", help="no GPU, no configuration: two simulated models")
    start.set_defaults(run=_start)

    proxy = commands.add_parser("proxy", help="run the OpenAI-compatible proxy by itself")
    proxy.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    proxy.set_defaults(run=_proxy)

    check = commands.add_parser("check", help="say everything that is wrong with a configuration")
    check.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    check.set_defaults(run=_check)
    return parser


def _start(options: Namespace) -> int:
    if not options.demo:
        return _run_daemon(_load(options.config))
    import tempfile

    from .demo import write_demo_config

    with tempfile.TemporaryDirectory(prefix="muxd-demo-") as folder:
        path = write_demo_config(Path(folder))
        print(f"demo: two simulated models, no GPU; everything is in {folder}", file=sys.stderr)
        return _run_daemon(_load(path))


def _run_daemon(config: Config) -> int:
    from .daemon import run_daemon
    from .logs import setup_logging
    from .notify import Notifier

    notifier = Notifier.from_environ(os.environ)
    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _run(run_daemon, config, notifier)
    return 0


def _proxy(options: Namespace) -> int:
    from .config.load import load_proxy_config
    from .config.places import find_config

    config = load_proxy_config(find_config(options.config, os.environ), os.environ)
    from .logs import setup_logging
    from .proxy.app import run_proxy

    setup_logging(config.daemon.log_level, config.daemon.log_format)
    _run(run_proxy, config, _passed_listener())
    return 0


def _check(options: Namespace) -> int:
    from .config.check import check

    return check(options.config, os.environ)


def _load(explicit: Path | None) -> Config:
    from .config.load import load_config
    from .config.places import find_config

    return load_config(find_config(explicit, os.environ), os.environ)


def _passed_listener() -> "socket.socket | None":
    """The listening socket that muxd or systemd passes as descriptor 3 (sd_listen_fds(3)), if one does."""
    import socket

    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or os.environ.pop("LISTEN_FDS", "") != "1":
        return None
    os.set_inheritable(3, False)
    return socket.socket(fileno=3)


def _run(main: "Callable[..., Awaitable[None]]", *args: object) -> None:
    """trio.run; a MuxdError comes out as itself, not in the groups that nurseries make."""
    import trio

    try:
        trio.run(main, *args)
    except* MuxdError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[MuxdError]) -> MuxdError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


if __name__ == "__main__":
    main()
