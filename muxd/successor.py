"""The muxd that this one becomes by an upgrade: the same command line, executed anew in the same process.

It keeps the pid, so that the service manager sees one muxd, and the shims stay its children.  Sockets are passed on as
systemd passes them (LISTEN_FDS, see notify), so that none is closed for a moment: who connects waits in its queue.
Lock files stay held; their descriptors are named in MUXD_LOCKS.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Never

import trio

from .config import Config
from .errors import MuxdError
from .locks import LOCKS

#: Set for a start that only reads the configuration, and says by its exit status whether muxd could run.  It has
#: the places at which the muxd that runs is found, see `places_of`.
TRIAL = "MUXD_TRIAL"

#: Seconds in which a trial must be over, and bytes of what it said that are quoted.
TRIAL_TIMEOUT = 60.0
QUOTED = 2000

#: The signals that muxd hears.
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def leave_for_later(number: int, _: object) -> None:
    """Handle a signal that comes when this muxd hears none any more: it waits for the next one of this process.

    The mask of blocked signals, and what waits behind it, outlive an exec; handlers do not.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.raise_signal(number)


class PlacesMoved(MuxdError):
    code = "places_moved"


def places_of(config: Config) -> str:
    """Return the places by which a muxd, and all that it has left, is found, a line for each."""
    return f"{config.daemon.state_dir}\n{config.daemon.socket}"


def try_out(config: Config, places: str) -> None:
    """Raise PlacesMoved where a muxd with `config` would not find what the one at `places` leaves to it."""
    if places_of(config) != places:
        raise PlacesMoved(
            "[muxd] state_dir and socket cannot be changed by an upgrade, as what runs would not be found there and "
            "be started a second time: take the change back, or stop muxd and start it"
        )


class Successor:
    """A command line that can be executed in this process's place."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Take the words of the command, the interpreter's first, and the environment that this muxd was started in."""
        self._argv = [sys.executable, *argv[1:]]
        self._environ = dict(environ)

    async def why_not(self, config: Config) -> str:
        """Start it for a trial; return why it would not run in the place of a muxd with `config`, "" where it would."""
        try:
            with trio.fail_after(TRIAL_TIMEOUT):
                trial = await trio.run_process(
                    self._argv,
                    stdin=subprocess.DEVNULL,
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env={**self._environ, TRIAL: places_of(config)},
                )
        except trio.TooSlowError:
            return f"a trial took longer than {TRIAL_TIMEOUT:g} s"
        except OSError as error:
            return f"{self._argv[0]}: {error.strerror}"
        said = trial.stderr[-QUOTED:].decode(errors="replace").strip()
        return "" if trial.returncode == 0 else said or f"a trial exited with status {trial.returncode}"

    def execute(self, sockets: Sequence[tuple[str, int]], locks: Sequence[int]) -> Never:
        """Go on as it, with these sockets, each with its name, and these locks; raise OSError.

        Nothing of this process may be needed any more: its descriptors are overwritten.
        """
        above = 3 + len(sockets)  # where the sockets are to be
        held = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for _, fd in sockets]
        kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in locks]
        for number, fd in enumerate(held):
            os.dup2(fd, 3 + number)
        passed = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in sockets),
            LOCKS: ":".join(map(str, kept)),
        }
        logging.shutdown()
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # until the next one hears them
        os.execve(self._argv[0], self._argv, {**self._environ, **passed})
