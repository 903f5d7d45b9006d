"""`muxd start --validate MODEL`: a muxd of its own for the length of `muxctl validate`, as llmux has it."""

import os
import signal
import socket
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .errors import ConfigError, MuxdError

#: Seconds between two looks whether muxd is up.
LOOK = 0.05


class EndedEarly(MuxdError):
    """The muxd that was to validate a model did not come up."""

    code = "ended_early"


def validate_once(run_muxd: Callable[[], int], control_socket: Path, model: str, levels: str | None) -> int:
    """Run muxd in a child, validate the model, and shut that muxd down; return muxctl's exit code.

    In the child, what `run_muxd` returns is returned.  Raise ConfigError where `levels` are none, EndedEarly where muxd
    does not come up.
    """
    from muxctl.cli import main
    from muxctl.validate import levels_in

    words = [model, *(["--levels", levels] if levels is not None else [])]
    try:
        levels_in(levels if levels is not None else "1")
    except ArgumentTypeError as error:
        raise ConfigError([f"muxd start: argument --levels: {error}"]) from None
    if _listens(control_socket):
        raise EndedEarly(f"a muxd runs already at {control_socket}: ask it, with muxctl validate {model}")
    if (child := os.fork()) == 0:
        return run_muxd()
    with _ended_at_last(child):
        while not _listens(control_socket):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise EndedEarly("muxd did not start; what it said is above")
            time.sleep(LOOK)
        return main(["--socket", str(control_socket), "validate", *words])


@contextmanager
def _ended_at_last(child: int) -> Iterator[None]:
    """Have muxd shut down at the end, or when this process is told to end, and wait for it."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        os.kill(child, signal.SIGTERM)  # a zombie at least, as nobody has waited for it
        with suppress(KeyboardInterrupt):  # ^C has reached muxd as well, which ends its models
            os.waitpid(child, 0)
        signal.signal(signal.SIGTERM, before)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
