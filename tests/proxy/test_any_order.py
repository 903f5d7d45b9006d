"""Clients and workers that do anything at any time; in the end nothing is left over."""

import random
from contextlib import suppress

import pytest
import trio

from muxd.proxy.sockets.downstream import ClientConnection

from .http_client import HttpClient, chat, get, post
from .proxy_env import ProxyEnv
from .record import PATIENCE
from .worker import OK, SSE_HEAD, Answer, Call, chunk, event

CLIENTS, TURNS = 20, 8


async def pause(dice: random.Random) -> None:
    await trio.sleep(dice.choice((0, 0, 0.001, 0.01)))


def worker_of(dice: random.Random) -> Answer:
    async def answer(call: Call) -> bool:
        await pause(dice)
        match dice.randrange(8):
            case 0:
                return False
            case 1:
                call.reset()
            case 2:
                await call.send(b"garbage\r\n\r\n")
                return False
            case 3 | 4:
                await call.send(SSE_HEAD)
                for number in range(dice.randrange(6)):
                    await call.send(event(str(number)))
                    await pause(dice)
                if dice.random() < 0.3:
                    return False
                await call.send(b"0\r\n\r\n")
            case 5:
                await call.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                await call.send(chunk(b"x" * dice.randrange(1, 400_000)) + b"0\r\n\r\n")
            case 6:
                for byte in OK:
                    await call.send(bytes((byte,)))
            case 7:
                await call.send(OK)
        return True

    return answer


async def client(proxy_env: ProxyEnv, dice: random.Random) -> None:
    for _ in range(TURNS):
        http_client = await proxy_env.connect()
        # Cut, as it may be; or it wants to send after it had finished sending.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            await one_visit(http_client, dice)
        if dice.random() < 0.5:
            http_client.reset()
        else:
            http_client.close()


async def one_visit(http_client: HttpClient, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 4)):
        request = dice.choice(
            (
                post(chat()),
                post(chat("beta")),
                post(chat(pad="x" * 300_000)),
                get(b"/health"),
                post(b"{}"),
                b"x\r\n\r\n",
            )
        )
        cut = dice.randrange(len(request)) if dice.random() < 0.2 else len(request)
        await http_client.send(request[:cut] if dice.random() < 0.9 else request * 2)
        if cut < len(request):
            return
        if dice.random() < 0.1:
            http_client.finish_sending()
        with trio.move_on_after(dice.choice((0.0, 0.001, 0.01, 1.0))) as patience:
            await http_client.reply()
        if patience.cancelled_caught:
            return


async def muxd(proxy_env: ProxyEnv, dice: random.Random) -> None:
    """Grants, revokes and fails leases at any time."""
    index = 0
    while True:
        lease = await proxy_env.muxd.leases.nth(index) if len(proxy_env.muxd.leases) > index else None
        if lease is None:
            await trio.sleep(0.005)
            continue
        index += 1
        await pause(dice)
        if dice.random() < 0.2:
            lease.fail("model_failed", "it failed")
            continue
        lease.grant(proxy_env.alpha.url)
        await trio.sleep(dice.choice((0.001, 0.02, 0.05)))
        lease.revoke(deadline=dice.choice((0.0, 0.3, None)))


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_over(proxy_env: ProxyEnv, seed: int) -> None:
    dice = random.Random(seed)
    proxy_env.muxd.grants.clear()
    proxy_env.alpha.answer = worker_of(dice)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxd, proxy_env, dice)
        async with trio.open_nursery() as visitors:
            for _ in range(CLIENTS):
                visitors.start_soon(client, proxy_env, random.Random(dice.random()))
        with trio.fail_after(PATIENCE * 2):
            await proxy_env.proxy.front.empty()
        nursery.cancel_scope.cancel()
    assert proxy_env.proxy.front.held == 0
    assert not [
        handler for handler in proxy_env.proxy.front.reactor.handlers() if isinstance(handler, ClientConnection)
    ]
    for model in ("alpha", "beta"):
        lease = proxy_env.proxy.leases.of(model)
        assert not lease._waiting
        assert lease.grant is None or not lease.grant.in_flight
