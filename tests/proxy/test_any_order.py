"""Clients and workers that do anything at any time; in the end nothing is left over."""

import random
from contextlib import suppress

import pytest
import trio

from muxd.proxy.sockets.downstream import Client

from .browser import Browser, chat, get, post
from .house import House
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


async def client(house: House, dice: random.Random) -> None:
    for _ in range(TURNS):
        browser = await house.connect()
        # Cut, as it may be; or it wants to send after it had finished sending.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            await one_visit(browser, dice)
        if dice.random() < 0.5:
            browser.reset()
        else:
            browser.close()


async def one_visit(browser: Browser, dice: random.Random) -> None:
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
        await browser.send(request[:cut] if dice.random() < 0.9 else request * 2)
        if cut < len(request):
            return
        if dice.random() < 0.1:
            browser.finish_sending()
        with trio.move_on_after(dice.choice((0.0, 0.001, 0.01, 1.0))) as patience:
            await browser.reply()
        if patience.cancelled_caught:
            return


async def muxd(house: House, dice: random.Random) -> None:
    """Grants, revokes and fails leases at any time."""
    index = 0
    while True:
        lease = await house.muxd.leases.nth(index) if len(house.muxd.leases) > index else None
        if lease is None:
            await trio.sleep(0.005)
            continue
        index += 1
        await pause(dice)
        if dice.random() < 0.2:
            lease.fail("model_failed", "it failed")
            continue
        lease.grant(house.alpha.url)
        await trio.sleep(dice.choice((0.001, 0.02, 0.05)))
        lease.revoke(deadline=dice.choice((0.0, 0.3, None)))


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_left_over(house: House, seed: int) -> None:
    dice = random.Random(seed)
    house.muxd.grants.clear()
    house.alpha.answer = worker_of(dice)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxd, house, dice)
        async with trio.open_nursery() as visitors:
            for _ in range(CLIENTS):
                visitors.start_soon(client, house, random.Random(dice.random()))
        with trio.fail_after(PATIENCE * 2):
            await house.proxy.front.empty()
        nursery.cancel_scope.cancel()
    assert house.proxy.front.held == 0
    assert not [handler for handler in house.proxy.front.reactor.handlers() if isinstance(handler, Client)]
    for model in ("alpha", "beta"):
        lease = house.proxy.leases.of(model)
        assert not lease._waiting
        assert lease.grant is None or not lease.grant.in_flight
