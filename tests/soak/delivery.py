"""Short answers after short waits with many comments: what each client got, byte for byte, beside the access log.

`python -m tests.soak.delivery 20000` from the project's folder; exits with 1 where anything differs.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import trio

from muxd.proxy.request_timeouts import RequestTimeouts
from muxd.proxy.sockets import reactor
from tests.proxy.http_client import HttpClient, chat, post
from tests.proxy.proxy_env import QUIET, ProxyEnv, open_proxy_env
from tests.proxy.worker import OK, SSE_HEAD, Call, event

_END = b"0\r\n\r\n"
_CLIENTS = 24


@dataclass
class Tally:
    """`got`: bytes by request id; `problems`: answers that were not whole."""

    got: dict[str, int] = field(default_factory=dict)
    commented: int = 0
    problems: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """Between what came and what the log says came."""
        told = Counter(line["request_id"] for line in self.lines)
        logged = {line["request_id"]: line for line in self.lines}
        found = [f"{id}: {told[id]} lines" for id in self.got if told[id] != 1]
        for id in self.got.keys() & logged.keys():
            line, size = logged[id], self.got[id]
            if (line["status"], line["end"], line["response_bytes"]) != (200, "ok", size):
                found.append(f"{id}: {size} bytes came, the log says {line}")
        return found + self.problems


async def _answer(call: Call) -> None:
    """A stream of as many events as max_tokens says, at an uneven pace; without "stream" a small object."""
    asked = msgspec.json.decode(call.body)
    draw = random.Random(asked["seed"])
    await trio.sleep(draw.choice((0, 0, 0.001, 0.004)))
    if not asked["stream"]:
        await call.send(OK)
        return
    parts = [event(str(number)) for number in range(asked["max_tokens"])]
    if draw.random() < 0.5:
        await call.send(SSE_HEAD + b"".join(parts) + _END)
        return
    await call.send(SSE_HEAD)
    for part in parts[:-1]:
        await call.send(part)
        await trio.sleep(draw.choice((0, 0.001)))
    await call.send(parts[-1] + _END)


async def _ask(
    proxy_env: ProxyEnv, http_client: HttpClient, number: int, draw: random.Random, tally: Tally
) -> HttpClient:
    """One exchange; the connection for the next."""
    streams, tokens, last = draw.random() < 0.8, draw.randint(1, 5), draw.random() < 0.2
    id = f"exchange-{number}"
    headers = b"x-request-id: %b\r\n" % id.encode() + (b"connection: close\r\n" if last else b"")
    body = chat("alpha", stream=streams, max_tokens=tokens, seed=number)
    await http_client.send(post(body, headers))
    try:
        reply = await http_client.reply()
        raw = reply.raw + (await http_client.rest() if last else b"")
    except AssertionError as error:
        tally.problems.append(f"{id}: {str(error)[:300]}")
        http_client.close()
        return await proxy_env.connect()
    whole = (
        raw.endswith(_END) and all(event(str(n))[4:-2] in raw for n in range(tokens)) if streams else OK[-20:] in raw
    )
    if not whole:
        tally.problems.append(f"{id}: not whole: {raw[-300:]!r}")
    tally.got[id] = len(raw)
    tally.commented += b": muxd: " in raw
    if last:
        http_client.close()
        proxy_env.http_clients.remove(http_client)
    return await proxy_env.connect() if last else http_client


async def deliver(folder: Path, exchanges: int, seed: int = 1) -> Tally:
    """`exchanges` requests of two dozen clients at a worker that takes four at once."""
    tally, numbers = Tally(), iter(range(exchanges))
    logs = folder / "access"
    proxy = replace(QUIET, access_log="json", access_log_dir=logs, request_id_headers=("x-request-id",))

    async def client(proxy_env: ProxyEnv, draw: random.Random) -> None:
        http_client = await proxy_env.connect()
        for number in numbers:
            http_client = await _ask(proxy_env, http_client, number, draw, tally)

    async with open_proxy_env(folder, proxy=proxy, model={"concurrency_limit": 4}) as proxy_env:
        proxy_env.proxy.dispatcher._pace = RequestTimeouts(
            comment_interval=0.001
        )  # a configuration has at least 100 ms
        proxy_env.alpha.answer = _answer
        async with trio.open_nursery() as nursery:
            for index in range(_CLIENTS):
                nursery.start_soon(client, proxy_env, random.Random(seed * 1000 + index))
    tally.lines = [msgspec.json.decode(line) for file in logs.iterdir() for line in file.read_bytes().splitlines()]
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exchanges", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    reactor._SWEEP = 0.001  # a deadline every turn or two: where one could do harm, it does
    with tempfile.TemporaryDirectory() as folder:
        tally = trio.run(deliver, Path(folder), asked.exchanges, asked.seed)
    differences = tally.differences
    print(f"{len(tally.got)} exchanges, {tally.commented} with comments, {len(differences)} differences")
    print(*differences[:20], sep="\n")
    return 1 if differences or len(tally.got) < asked.exchanges else 0


if __name__ == "__main__":
    sys.exit(main())
