"""`muxctl lend GPU -- COMMAND`: run a command on a GPU that muxd's models leave for it, and give it back afterwards."""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread, Timer
from types import FrameType
from typing import Any

from muxctl.control_connection import ask, stream
from muxctl.exit_codes import EVERYWHERE, CommandFailed, ExitCode, refusal
from muxctl.orders import lasting
from muxctl.socket_path import find_socket

MEANING = """\
Models on the GPU finish their requests and sleep; once it is measured to be
free, COMMAND runs with CUDA_VISIBLE_DEVICES set to it.  When the last process
of COMMAND's process group has ended, the models that were awake come back.
Meanwhile requests for models that can come nowhere else wait, or are refused
with --refuse.  muxd may die and come back: that changes nothing for COMMAND."""
EXAMPLES = {
    "muxctl lend 0 -- python train.py": "until train.py ends",
    "muxctl lend 0 --for 2h --preemptible -- sh run.sh": "2h at most",
    "muxctl lend 0,1 -- torchrun --nproc-per-node 2 x.py": "two GPUs",
}
EXITS = EVERYWHERE | {
    ExitCode.OK: "COMMAND ended with 0; else its own exit status",
    ExitCode.NOT_READY: "a pinned or held model is on the GPU, or it is lent, or wanted already",
    ExitCode.INTERRUPTED: "interrupted before COMMAND was started",
}

#: Seconds from SIGTERM to SIGKILL for a command whose loan is recalled.
PATIENCE = 30.0

#: Seconds within which muxd refuses or lends at once; who waits longer is told so.
ANSWERED = 0.3

#: Seconds between two attempts to reach a muxd that is gone.
RETRY = 1.0

#: Seconds within which muxd sees that a command has ended; where a process of its group lives on, the loan does, too.
GIVEN_BACK = 3.0


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("gpus", metavar="GPU", help='by number or UUID; several with commas, as in "0,1"')
    parser.add_argument("command", metavar="COMMAND", nargs="+", help="behind --, with its arguments")
    parser.add_argument("--for", dest="for_", metavar="TIME", help="then COMMAND gets SIGTERM, and 30s later SIGKILL")
    parser.add_argument("--preemptible", action="store_true", help="likewise as soon as a request waits for the GPU")
    parser.add_argument("--refuse", action="store_true", help="requests for models that can come nowhere else get 503")


def run(options: Namespace) -> int:
    """Borrow the GPUs, run the command on them, and return its exit status.  Raises CommandFailed."""
    seconds = lasting(options.for_, "a loan lasts longer than no time; without a time it lasts as long as its command")
    path = find_socket(options.socket)
    body: dict[str, Any] = {"gpus": [gpu.strip() for gpu in options.gpus.split(",")]}
    body |= {"preemptible": options.preemptible, "refuses": options.refuse}
    body |= {"for_s": seconds} if seconds is not None else {}
    waiting = f"muxctl: GPU {options.gpus}: waiting until models have left it\n"
    notice = Timer(ANSWERED, sys.stderr.write, (waiting,))
    lines = stream(path, "POST", "/v1/loans", body)
    notice.start()
    try:
        lent = _granted(lines)
    except KeyboardInterrupt:
        raise CommandFailed("not lent: nothing was started", ExitCode.INTERRUPTED) from None
    finally:
        notice.cancel()
    return _Borrowing(path, lent, options.command).run(lines)


def _granted(lines: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return muxd's word that the GPUs are free; raises CommandFailed."""
    for line in lines:
        if line["type"] == "failed":
            raise refusal(line)
        if line["type"] == "lent":
            return line
    raise CommandFailed("the loan ended before the GPU was free: its time was over, or muxd ended")


class _Borrowing:
    """A command that runs on lent GPUs, in a process group of its own."""

    def __init__(self, path: str, lent: dict[str, Any], command: list[str]) -> None:
        self._path = path
        self._loan = lent["loan"]
        self._is_over = False
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(lent["ids"]), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        try:
            self._process = subprocess.Popen(command, env={**os.environ, **visible}, process_group=0)
        except OSError as error:
            raise CommandFailed(f"cannot run {command[0]}: {error.strerror}; the GPU goes back") from None

    def run(self, lines: Iterator[dict[str, Any]]) -> int:
        """Tell muxd whose the GPUs are, and wait for the command's end; return its exit status."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        self._to_foreground(self._process.pid)
        try:
            ask(self._path, "POST", f"/v1/loans/{self._loan}/borrower", {"pid": self._process.pid})
            attending = Thread(target=self._attend, args=(lines,), daemon=True)
            attending.start()
            status = self._wait()
            self._is_over = True
            attending.join(GIVEN_BACK)  # muxd ends the stream once it has the GPUs: a next loan of them is granted
        except CommandFailed:
            self._end(signal.SIGKILL)  # nobody would know that the GPU is in use
            raise
        finally:
            self._is_over = True
            self._to_foreground(os.getpgrp())
        return status if status >= 0 else 128 - status

    def _wait(self) -> int:
        while True:
            try:
                return self._process.wait()
            except KeyboardInterrupt:
                self._end(signal.SIGINT)

    def _attend(self, lines: Iterator[dict[str, Any]]) -> None:
        """End the command when its loan is recalled; listen again where muxd has died meanwhile."""
        while not self._is_over:
            with suppress(CommandFailed, OSError, ValueError):
                for line in lines:
                    if line["type"] == "recalled" and not self._is_over:
                        print(f"muxctl: the GPU is wanted back: {line['reason']}", file=sys.stderr)
                        self._end(signal.SIGTERM)
                        time.sleep(PATIENCE)
                        self._end(signal.SIGKILL)
            if not self._is_over:
                time.sleep(RETRY)
                lines = stream(self._path, "GET", f"/v1/loans/{self._loan}")

    def _end(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._end(signal.Signals(number))

    def _to_foreground(self, group: int) -> None:
        """Give the terminal, if muxctl has one, to a process group."""
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with suppress(OSError, ValueError):
            if os.isatty(0):
                os.tcsetpgrp(0, group)
        signal.signal(signal.SIGTTOU, before)
