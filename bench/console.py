"""What viewers of the console cost the clients of the proxy: the same requests with none and with 20 of them.

    python bench/console.py [--quick] [--viewers N]

Rounds without viewers and with them take turns.  CPU is of muxd, its proxy and its console, by their CPU clocks.
"""

import argparse
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from figures import Figure, show
from muxd_process import SIMULATED, MuxdProcess, running_muxd, until
from processes import below, command_line, cpu_seconds

#: A ratio of medians with and without viewers that is no cost: the goal.
GOAL = 1.05


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def watched(url: str, viewers: int) -> Iterator[None]:
    """So many viewers read the page's stream meanwhile."""
    streams = [urllib.request.urlopen(f"{url}/ui/api/live", timeout=60) for _ in range(viewers)]

    def read(stream: object) -> None:
        try:
            while stream.readline():  # type: ignore[attr-defined]
                pass
        except (OSError, ValueError, AttributeError):
            pass

    readers = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in streams]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for stream in streams:
            stream.fp.raw._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        for reader in readers:
            reader.join()


def cpu(muxd: MuxdProcess, mark: str) -> float:
    """Seconds of the processes with this in their command line."""
    return sum(cpu_seconds(pid) for pid in below(muxd.muxd.pid) if f"-m muxd {mark}" in command_line(pid))


def round_of(muxd: MuxdProcess, requests: int) -> tuple[float, float, float]:
    """Median milliseconds of a request, and CPU milliseconds of the proxy and of muxd for each."""
    before = cpu(muxd, "proxy"), cpu(muxd, "start")
    taken = []
    for _ in range(requests):
        began = time.perf_counter()
        muxd.ask("a", max_tokens=1)
        taken.append(1000 * (time.perf_counter() - began))
    after = cpu(muxd, "proxy"), cpu(muxd, "start")
    each = [1000 * (late - early) / requests for early, late in zip(before, after, strict=True)]
    return statistics.median(taken), each[0], each[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--viewers", type=int, default=20, metavar="N")
    options = parser.parse_args()
    rounds, requests = (1, 5) if options.quick else (7, 150)
    ui = port()
    quick = SIMULATED.replace("token_rate = 200", "token_rate = 5000")
    with running_muxd(f'[ui]\nlisten = "127.0.0.1:{ui}"\n{quick}') as muxd:
        url = f"http://127.0.0.1:{ui}"
        until(lambda: _is_up(url), 20)
        muxd.ask("a", max_tokens=1)
        alone, seen = [], []
        for _ in range(rounds):
            alone.append(round_of(muxd, requests))
            with watched(url, options.viewers):
                seen.append(round_of(muxd, requests))
    figures = []
    for number, (name, goal) in enumerate(
        (("request, ms", GOAL), ("CPU of the proxy, ms", GOAL), ("CPU of muxd, ms", None))
    ):
        without, with_them = [each[number] for each in alone], [each[number] for each in seen]
        ratios = [late / early for early, late in zip(without, with_them, strict=True)]
        figures.append(Figure(f"{name}: nobody looks", without, "ms"))
        figures.append(Figure(f"{name}: {options.viewers} look, ratio", ratios, "x", goal))
    show(f"{options.viewers} viewers of the console", figures)


def _is_up(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/ui/", timeout=5).status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
