"""Clients that let a model go, as Ollama's do with `keep_alive: 0`: what muxd is asked for, and when."""

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
import trio

from muxd.config.schema import Key
from muxd.proxy.grant import Grant

from .http_client import chat, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, answer_when_released

UNLOAD = b'{"model": "alpha", "keep_alive": 0}'
LONG = "x" * (70 << 10)  # so long that the body is not decoded whole


async def unload(proxy_env: ProxyEnv, body: bytes = UNLOAD) -> None:
    assert (await proxy_env.ask(post(body, path=b"/api/generate"))).json["done_reason"] == "unload"


async def busy(proxy_env: ProxyEnv, count: int, then: bytes = b"") -> None:
    """So many requests at once; muxd hears of each one's beginning.  `then` is asked while the first is in flight."""
    proxy_env.alpha.answer = answer_when_released
    lease, first = await proxy_env.lease(), len(proxy_env.alpha.calls)
    http_clients = [await proxy_env.connect() for _ in range(count)]
    for number, http_client in enumerate(http_clients):
        await http_client.send(post(chat()))
        await lease.reports.until((number + 1, 0))
        if then and number == 0:
            await unload(proxy_env, then)
    for number, http_client in enumerate(http_clients):
        (await proxy_env.alpha.calls.nth(first + number)).released.set()
        assert (await http_client.reply()).raw == OK
    await lease.reports.until((0, 0))


async def test_a_model_that_this_proxy_has_nothing_to_do_with_is_let_go_without_a_lease(proxy_env: ProxyEnv) -> None:
    await unload(proxy_env)
    assert await proxy_env.muxd.unloads.nth(0) == "alpha"
    assert not proxy_env.muxd.leases


async def test_muxd_hears_that_nothing_is_in_flight_before_it_is_asked(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    await unload(proxy_env)
    assert await proxy_env.muxd.unloads.nth(0) == "alpha"
    assert proxy_env.muxd.leases[0].reports[-1] == (0, 0)


@pytest.mark.parametrize("text", ["hello", LONG])
@pytest.mark.parametrize("keep_alive", [0, "0s"])
async def test_a_request_lets_its_model_go_once_it_is_answered(
    proxy_env: ProxyEnv, text: str, keep_alive: int | str
) -> None:
    body = msgspec.json.encode({"model": "alpha", "prompt": text, "keep_alive": keep_alive})
    assert (await proxy_env.ask(post(body, path=b"/api/generate"))).raw == OK
    assert await proxy_env.muxd.unloads.nth(0) == "alpha"
    assert proxy_env.alpha.calls[0].body == body
    assert proxy_env.muxd.leases[0].reports[-1] == (0, 0)


@pytest.mark.parametrize("more", [{"keep_alive": 0}, {"ttl": 0}, {"ttl": 0, "pad": LONG}])
async def test_so_does_one_by_openais_routes(proxy_env: ProxyEnv, more: dict[str, object]) -> None:
    body = msgspec.json.encode({"model": "alpha", "messages": [{"role": "user", "content": "x"}], **more})
    assert (await proxy_env.ask(post(body, path=b"/v1/chat/completions"))).raw == OK
    assert await proxy_env.muxd.unloads.nth(0) == "alpha"
    assert not proxy_env.muxd.kept


@pytest.mark.parametrize(("allowed", "count"), [(0.0, 0), (60.0, 1)])
async def test_a_key_lets_a_model_go_by_these_if_it_may_keep_one(tmp_path: Path, allowed: float, count: int) -> None:
    secret = "s" * 20
    keys = (Key("some", sha256(secret.encode()).hexdigest(), keep_alive=allowed),)
    async with open_proxy_env(tmp_path, keys=keys) as proxy_env:
        body = msgspec.json.encode({"model": "alpha", "messages": [{"role": "user", "content": "x"}], "ttl": 0})
        head = b"Authorization: Bearer %b\r\n" % secret.encode()
        assert (await proxy_env.ask(post(body, head, path=b"/v1/chat/completions"))).raw == OK
        lease = await proxy_env.lease()
        await lease.reports.until((0, 0))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(proxy_env.muxd.unloads) == count


async def test_what_others_use_is_not_let_go_and_not_once_they_have_their_answer_either(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    await busy(proxy_env, 2, then=UNLOAD)
    await busy(proxy_env, 1)  # were it asked for after the report that nothing is in flight, that would be over by now
    assert not proxy_env.muxd.unloads


class Request:
    """One that is answered as soon as it is told to."""

    since, priority, losses = 0.0, 0, 0

    def forward(self, grant: Grant) -> None:
        self.grant = grant


async def test_a_later_request_keeps_the_model(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    await (await proxy_env.lease()).reports.until((0, 0))
    lease, request = proxy_env.proxy.leases.of("alpha"), Request()
    lease.unload()
    lease.acquire(request)  # type: ignore[arg-type]
    lease.release(request, request.grant)  # type: ignore[arg-type]
    await busy(proxy_env, 1)
    assert not proxy_env.muxd.unloads


async def test_a_word_that_came_with_the_end_of_its_lease_does_not_keep_later_ones_from_muxd(
    proxy_env: ProxyEnv,
) -> None:
    await proxy_env.ask(post(chat()))
    held = await proxy_env.lease()
    await held.reports.until((0, 0))
    proxy_env.proxy.leases.of("alpha").unload()
    held.end()
    await held.ended()
    with trio.fail_after(PATIENCE):
        while not proxy_env.muxd.unloads:
            await unload(proxy_env)


async def test_without_muxd_the_client_is_answered_and_the_log_says_what_was_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env:
        await unload(proxy_env)
        await unload(proxy_env)
    assert "muxd could not be told that a client lets alpha go" in caplog.text


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"keep_alive": "10m"}, 600.0),
        ({"keep_alive": -1}, None),
        ({"ttl": 90}, 90.0),
        ({"ttl": "1h", "pad": LONG}, 3600.0),
    ],
)
async def test_muxd_is_told_how_long_a_client_wants_its_model_awake(
    proxy_env: ProxyEnv, more: dict[str, object], told: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._REPORT_EVERY", PATIENCE)
    body = msgspec.json.encode({"model": "alpha", "messages": [{"role": "user", "content": "x"}], **more})
    for _ in range(2):  # it is told once
        assert (await proxy_env.ask(post(body, path=b"/v1/chat/completions"))).raw == OK
    assert await proxy_env.muxd.kept.nth(0) == ("alpha", told)
    assert len(proxy_env.muxd.kept) == 1


async def test_muxd_is_told_again_of_the_same_time_as_another_proxy_may_have_told_another_one(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._REPORT_EVERY", 0.0)
    body = msgspec.json.encode({"model": "alpha", "prompt": "x", "keep_alive": 60})
    for index in range(2):
        assert (await proxy_env.ask(post(body, path=b"/api/generate"))).raw == OK
        assert await proxy_env.muxd.kept.nth(index) == ("alpha", 60.0)


async def test_the_last_word_is_told_once_it_may_be_where_the_same_was_told_just_before(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._REPORT_EVERY", 1.0)
    body = msgspec.json.encode({"model": "alpha", "prompt": "x", "keep_alive": 60})
    for _ in range(2):  # the second within a second after the first
        assert (await proxy_env.ask(post(body, path=b"/api/generate"))).raw == OK
    with trio.fail_after(PATIENCE):
        assert await proxy_env.muxd.kept.nth(1) == ("alpha", 60.0)


async def test_what_is_no_duration_is_refused_before_a_model_is_asked_for(proxy_env: ProxyEnv) -> None:
    for path, field in ((b"/api/chat", "keep_alive"), (b"/v1/chat/completions", "ttl")):
        body = {"model": "alpha", "messages": [{"role": "user", "content": "x"}], field: "soon"}
        refused = await proxy_env.ask(post(msgspec.json.encode(body), path=path))
        assert (refused.status, "is not a duration" in refused.raw.decode()) == (400, True)
    assert not proxy_env.muxd.leases


@pytest.mark.parametrize(("allowed", "told"), [(0.0, None), (60.0, 60.0), (900.0, 600.0)])
async def test_a_key_has_a_model_kept_for_as_long_as_it_may(tmp_path: Path, allowed: float, told: float | None) -> None:
    secret = "s" * 20
    keys = (Key("some", sha256(secret.encode()).hexdigest(), keep_alive=allowed),)
    async with open_proxy_env(tmp_path, keys=keys) as proxy_env:
        body = msgspec.json.encode({"model": "alpha", "prompt": "x", "keep_alive": "10m"})
        head = b"Authorization: Bearer %b\r\n" % secret.encode()
        assert (await proxy_env.ask(post(body, head, path=b"/api/generate"))).raw == OK
        if told is not None:
            assert await proxy_env.muxd.kept.nth(0) == ("alpha", told)
        lease = await proxy_env.lease()
        await lease.reports.until((0, 0))
        assert len(proxy_env.muxd.kept) == (told is not None)
