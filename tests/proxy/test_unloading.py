"""Clients that let a model go, as Ollama's do with `keep_alive: 0`: what muxd is asked for, and when."""

from pathlib import Path

import msgspec
import pytest
import trio

from muxd.proxy.grant import Grant

from .browser import chat, post
from .house import House, open_house
from .record import PATIENCE
from .worker import OK, answer_when_released

UNLOAD = b'{"model": "alpha", "keep_alive": 0}'
LONG = "x" * (70 << 10)  # so long that the body is not decoded whole


async def unload(house: House, body: bytes = UNLOAD) -> None:
    assert (await house.ask(post(body, path=b"/api/generate"))).json["done_reason"] == "unload"


async def busy(house: House, count: int, then: bytes = b"") -> None:
    """So many requests at once; muxd hears of each one's beginning.  `then` is asked while the first is in flight."""
    house.alpha.answer = answer_when_released
    lease, first = await house.lease(), len(house.alpha.calls)
    browsers = [await house.connect() for _ in range(count)]
    for number, browser in enumerate(browsers):
        await browser.send(post(chat()))
        await lease.reports.until((number + 1, 0))
        if then and number == 0:
            await unload(house, then)
    for number, browser in enumerate(browsers):
        (await house.alpha.calls.nth(first + number)).released.set()
        assert (await browser.reply()).raw == OK
    await lease.reports.until((0, 0))


async def test_a_model_that_this_proxy_has_nothing_to_do_with_is_let_go_without_a_lease(house: House) -> None:
    await unload(house)
    assert await house.muxd.unloads.nth(0) == "alpha"
    assert not house.muxd.leases


async def test_muxd_hears_that_nothing_is_in_flight_before_it_is_asked(house: House) -> None:
    await house.ask(post(chat()))
    await unload(house)
    assert await house.muxd.unloads.nth(0) == "alpha"
    assert house.muxd.leases[0].reports[-1] == (0, 0)


@pytest.mark.parametrize("text", ["hello", LONG])
@pytest.mark.parametrize("keep_alive", [0, "0s"])
async def test_a_request_lets_its_model_go_once_it_is_answered(house: House, text: str, keep_alive: int | str) -> None:
    body = msgspec.json.encode({"model": "alpha", "prompt": text, "keep_alive": keep_alive})
    assert (await house.ask(post(body, path=b"/api/generate"))).raw == OK
    assert await house.muxd.unloads.nth(0) == "alpha"
    assert house.alpha.calls[0].body == body
    assert house.muxd.leases[0].reports[-1] == (0, 0)


async def test_what_others_use_is_not_let_go_and_not_once_they_have_their_answer_either(house: House) -> None:
    await house.ask(post(chat()))
    await busy(house, 2, then=UNLOAD)
    await busy(house, 1)  # were it asked for after the report that nothing is in flight, that would be over by now
    assert not house.muxd.unloads


class Request:
    """One that is answered as soon as it is told to."""

    since, priority, replayed = 0.0, 0, False

    def forward(self, grant: Grant) -> None:
        self.grant = grant


async def test_a_later_request_keeps_the_model(house: House) -> None:
    await house.ask(post(chat()))
    await (await house.lease()).reports.until((0, 0))
    lease, request = house.proxy.leases.of("alpha"), Request()
    lease.unload()
    lease.enter(request)  # type: ignore[arg-type]
    lease.leave(request, request.grant)  # type: ignore[arg-type]
    await busy(house, 1)
    assert not house.muxd.unloads


async def test_a_word_that_came_with_the_end_of_its_lease_does_not_keep_later_ones_from_muxd(house: House) -> None:
    await house.ask(post(chat()))
    held = await house.lease()
    await held.reports.until((0, 0))
    house.proxy.leases.of("alpha").unload()
    held.end()
    await held.ended()
    with trio.fail_after(PATIENCE):
        while not house.muxd.unloads:
            await unload(house)


async def test_without_muxd_the_client_is_answered_and_the_log_says_what_was_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, muxd_up=False) as house:
        await unload(house)
        await unload(house)
    assert "muxd could not be told that a client lets alpha go" in caplog.text
