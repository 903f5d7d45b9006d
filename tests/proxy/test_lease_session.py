"""The proxy's one session with muxd: what goes over it, and what its end means."""

import logging
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from muxd.protocol import VERSION, DemandReport, LeaseWish, ToldError
from muxd.proxy import lease_session

from .http_client import chat, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, answer_when_released


async def test_the_leases_of_all_models_go_over_one_session_that_is_opened_when_it_is_needed(
    proxy_env: ProxyEnv,
) -> None:
    assert not proxy_env.muxd.sessions
    beta = await proxy_env.connect()
    await beta.send(post(chat("beta")))
    (await proxy_env.lease()).grant(proxy_env.beta.url)
    assert (await beta.reply()).raw == OK
    assert (await proxy_env.ask(post(chat()))).raw == OK
    (await proxy_env.lease()).revoke()
    await (await proxy_env.lease()).ended()
    await beta.send(post(chat("beta")))
    (await proxy_env.lease(2)).grant(proxy_env.beta.url)
    assert (await beta.reply()).raw == OK
    assert [lease.number for lease in proxy_env.muxd.leases] == [1, 2, 3]
    assert len(proxy_env.muxd.sessions) == 1


async def test_demand_of_several_models_goes_out_in_one_line(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_session, "_BATCH", 0.5)  # whatever comes within it goes together
    proxy_env.alpha.answer = answer_when_released
    for model in ("alpha", "beta"):
        await (await proxy_env.connect()).send(post(chat(model)))
    await proxy_env.lease(1)
    for model in ("beta", "alpha"):
        await (await proxy_env.connect()).send(post(chat(model)))
    for lease in proxy_env.muxd.leases:
        await lease.reports.until((2, 0) if lease.model == "alpha" else (0, 2))
    reports = [line for line in proxy_env.muxd.lines if isinstance(line, DemandReport)]
    assert max(len(report.leases) for report in reports) == 2


async def test_a_wish_does_not_wait_for_the_next_line_of_demand(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_session, "_BATCH", 1000.0)
    await (await proxy_env.connect()).send(post(chat("beta")))
    await proxy_env.lease()
    await (await proxy_env.connect()).send(post(chat("beta")))
    await proxy_env.lease()
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert [line.model for line in proxy_env.muxd.lines if isinstance(line, LeaseWish)] == ["beta", "alpha"]


@pytest.mark.parametrize("version", [1, VERSION + 1])
async def test_a_muxd_of_another_version_is_named_to_clients_and_in_the_log(
    proxy_env: ProxyEnv, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    proxy_env.muxd.version = version
    with caplog.at_level(logging.ERROR):
        reply = await proxy_env.ask(post(chat()))
    assert (reply.status, reply.code) == (503, "protocol_mismatch")
    told = f"speaks version {version} of the session's protocol, and this proxy version {VERSION}: restart the older"
    assert told in reply.message
    assert told in caplog.text
    proxy_env.muxd.version = VERSION
    assert (await proxy_env.ask(post(chat()))).raw == OK, "the next request tries again"


async def test_a_session_that_muxd_refuses_ends_the_wait_of_those_who_have_no_worker(proxy_env: ProxyEnv) -> None:
    proxy_env.muxd.refusal = ToldError("bad_request", "what did you say?")
    reply = await proxy_env.ask(post(chat()))
    assert (reply.status, reply.code) == (503, "bad_request")
    proxy_env.muxd.refusal = None
    assert (await proxy_env.ask(post(chat()))).raw == OK


async def test_all_who_wait_while_muxd_does_not_answer_share_one_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._RESTART", 0.0)
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env, AsyncExitStack() as life:
        proxy_env.muxd.silent = True
        await life.enter_async_context(proxy_env.muxd.running())
        clients = [await proxy_env.connect() for _ in range(4)]
        for client, model in zip(clients, ("alpha", "beta", "alpha", "beta"), strict=True):
            await client.send(post(chat(model)))
        await proxy_env.muxd.calls.has("GET /v1/session")
        with trio.fail_after(PATIENCE):
            while proxy_env.proxy.leases.of("beta").figures() != (0, 2):
                await trio.sleep(0.01)
        await life.aclose()
        assert [(await client.reply()).code for client in clients] == ["muxd_unreachable"] * 4
        assert proxy_env.muxd.calls.count("GET /v1/session") == 1
