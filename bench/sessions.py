"""What the proxies' sessions cost muxd: 100 models, 8 proxies that want all of them, 1000 other clients on the socket.

    python bench/sessions.py [--quick] [--models N] [--proxies N] [--clients N]

One simulated model is ready and granted to every proxy; all others wait for it.  Each proxy reports twenty times a
second, as often as it does at most, and measured is muxd's CPU for one lease's report, by muxd's CPU clock, without
what muxd takes when nothing is reported:

- all in one line: each proxy tells the demand of all its leases, and muxd decides once, with the last of them;
- alone: each proxy tells of one lease that waits, at a time of its own, as proxies do.  muxd is woken for it, reads the
  line, takes the demand in, writes it into its journal, and finds that the model comes when it would have come (what it
  takes to decide anew is in core_decision.py).  Some 30 us of that are the sleep and the wake of a process that does
  nothing but read;
- together: the same, but one proxy right after the other, so that muxd may read several with one wake.

A run lasts as long as muxd needs for each of its regular tasks once, and begins when these have run once since the
leases were asked for; a status is asked for meanwhile.  Nothing may be refused: a lease or a client that is not
answered ends the script.
"""

import argparse
import json
import resource
import time
from contextlib import AsyncExitStack
from itertools import count as count_up
from statistics import median

import trio
from figures import Figure, show
from muxd_process import MuxdProcess, running_muxd
from processes import cpu_seconds

from muxd.client import ControlClient, SessionConnection
from muxd.protocol import DemandReport, LeaseDemand, LeaseGranted, LeaseWish, WaitingRequests
from muxd.supervisor.loop import TICK

REPORT_GOAL = 0.15  # ms of muxd's CPU
NUMBERS = count_up(1)  # of waiting requests: each report has another, so that the last is known when it was taken in
GAP = 0.05  # seconds between two reports of a proxy, see muxd/proxy/lease
ROUNDS = round(TICK / GAP)  # reports of each proxy
ASK = b"GET /v1/version HTTP/1.1\r\nHost: muxd\r\n\r\n"

MODELS = """\
[policy]
wait_target = 3600
[defaults]
engine = "simulator"
memory = {{ weights = "40GiB", kv = "16GiB", overhead = "2GiB" }}
simulation = {{ load_time = 0.1, sleep_time = 0, wake_time = 0 }}
{models}
"""


async def measure(muxd: MuxdProcess, models: int, proxies: int, clients: int, rounds: int) -> list[Figure]:
    async with AsyncExitStack() as stack:
        for _ in range(clients):
            connection = await stack.enter_async_context(await trio.open_unix_socket(muxd.socket))
            await connection.send_all(ASK)
            answer = await connection.receive_some()
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"a client was refused: {answer!r}")
        sessions = [await stack.enter_async_context(control(muxd).session()) for _ in range(proxies)]
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(ask_for_all, session, models)
        async with trio.open_nursery() as readers:
            for session in sessions:
                readers.start_soon(read_on, session)
            idle: list[float] = []
            busy: list[float] = []
            alone: list[float] = []
            together: list[float] = []
            waits: list[float] = []
            await cpu_ms(muxd, [], models, rounds)
            for _ in range(5):
                idle.append(await cpu_ms(muxd, [], models, rounds))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look, muxd, waits)
                    busy.append(await cpu_ms(muxd, sessions, models, rounds))
                alone.append(await cpu_ms(muxd, sessions, models, rounds, alone=True))
                together.append(await cpu_ms(muxd, sessions, models, rounds, alone=True, pause=0.0))
            readers.cancel_scope.cancel()
    reports = rounds * proxies * models
    return [
        Figure("a lease's report, all in one line", per_report(busy, idle, reports), "ms of CPU", REPORT_GOAL),
        Figure("a lease's report alone", per_report(alone, idle, rounds * proxies), "ms of CPU", REPORT_GOAL),
        Figure("the same, proxies together", per_report(together, idle, rounds * proxies), "ms of CPU"),
        Figure("muxd, when nothing is reported", [took / rounds / GAP / 10 for took in idle], "% of a core"),
        Figure("a status meanwhile", waits, "ms", 200.0),
    ]


def per_report(took: list[float], idle: list[float], reports: int) -> list[float]:
    return [(each - median(idle)) / reports for each in took]


async def ask_for_all(session: SessionConnection, models: int) -> None:
    """Ask for a lease of each model; return when muxd has said of each how it goes, and has granted the first."""
    await session.send([LeaseWish(number, f"m{number}") for number in range(models)])
    unheard, granted = set(range(models)), False
    with trio.fail_after(60):
        while unheard or not granted:
            for message in await session.receive():
                unheard.discard(message.lease)
                granted = granted or isinstance(message, LeaseGranted)


async def read_on(session: SessionConnection) -> None:
    while True:
        await session.receive()


async def cpu_ms(
    muxd: MuxdProcess,
    sessions: list[SessionConnection],
    models: int,
    rounds: int,
    *,
    alone: bool = False,
    pause: float | None = None,
) -> float:
    """The CPU of muxd during so many reports of each session, until it has taken in the last.

    `alone`: each is of one lease, the last one.  `pause`: seconds from a session's to the next one's; None: they are
    spread over the time.
    """
    if pause is None:
        pause = GAP / len(sessions) if alone else 0.0
    before, count, came = cpu_seconds(muxd.muxd.pid), 0, trio.current_time()
    for turn in range(rounds):
        count = next(NUMBERS)
        for session in sessions:
            waiting = (WaitingRequests(count=count, oldest_s=trio.current_time() - came),)
            demand = (LeaseDemand(0, turn % 3 + 1), *(LeaseDemand(number, 0, waiting) for number in range(1, models)))
            await session.send([DemandReport(demand[-1:] if alone else demand)])
            await trio.sleep(pause)
        await trio.sleep(GAP - pause * len(sessions))
    while (await control(muxd).model(f"m{models - 1}"))["waiting"] != count * len(sessions) and sessions:
        await trio.sleep(GAP)
    return (cpu_seconds(muxd.muxd.pid) - before) * 1000


def control(muxd: MuxdProcess) -> ControlClient:
    return ControlClient([muxd.socket])


async def look(muxd: MuxdProcess, waits: list[float]) -> None:
    """Ask for the status once, amid the reports."""
    await trio.sleep(GAP)
    connection = await trio.open_unix_socket(muxd.socket)
    began, received = time.monotonic(), b""
    async with connection:
        await connection.send_all(b"GET /v1/status HTTP/1.1\r\nHost: muxd\r\nConnection: close\r\n\r\n")
        while data := await connection.receive_some():
            received += data
    waits.append((time.monotonic() - began) * 1000)
    json.loads(received.partition(b"\r\n\r\n")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--models", type=int, default=100, metavar="N")
    parser.add_argument("--proxies", type=int, default=8, metavar="N")
    parser.add_argument("--clients", type=int, default=1000, metavar="N")
    options = parser.parse_args()
    models, proxies, clients = (4, 2, 10) if options.quick else (options.models, options.proxies, options.clients)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tables = "\n".join(f"[models.m{number}]" for number in range(models))
    with running_muxd(MODELS.format(models=tables)) as muxd:
        figures = trio.run(measure, muxd, models, proxies, clients, 4 if options.quick else ROUNDS)
    show(f"{models} models, {proxies} proxies, {clients} other clients", figures)


if __name__ == "__main__":
    main()
