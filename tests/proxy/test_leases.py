"""Admission: who waits, who goes, and what muxd is told."""

from pathlib import Path

import pytest
import trio

from muxd.proxy.proxied_request import REPLAY_MOST

from .http_client import chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, SSE_HEAD, Call, answer_when_released, event


async def test_a_request_waits_for_its_lease_and_goes_with_the_grant(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta")))
    lease = await proxy_env.lease()
    assert lease.model == "beta"
    assert [(entry.count, entry.key) for entry in lease.asked] == [(1, "")]
    lease.grant(proxy_env.beta.url)
    assert (await http_client.reply()).raw == OK


async def test_all_who_wait_go_with_one_grant(proxy_env: ProxyEnv) -> None:
    http_clients = [await proxy_env.connect() for _ in range(5)]
    await http_clients[0].send(post(chat("beta")))
    lease = await proxy_env.lease()
    for http_client in http_clients[1:]:
        await http_client.send(post(chat("beta")))
    await lease.reports.until((0, 5))
    lease.grant(proxy_env.beta.url)
    for http_client in http_clients:
        assert (await http_client.reply()).status == 200
    await lease.reports.until((0, 0))
    assert len(proxy_env.muxd.leases) == 1


async def test_with_a_lease_a_request_makes_no_round_trip_to_muxd(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.ask(post(chat()))
    await (await proxy_env.lease()).reports.until((0, 0))
    asked = [call for call in proxy_env.muxd.calls if call.startswith("POST")]
    reports = len(proxy_env.muxd.leases[0].reports)
    for _ in range(200):
        await http_client.ask(post(chat()))
    assert [call for call in proxy_env.muxd.calls if call.startswith("POST")] == asked
    assert len(proxy_env.muxd.leases[0].reports) - reports < 50  # a few, and nobody waits for them


async def test_beginnings_and_ends_of_work_are_reported(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    lease = await proxy_env.lease()
    await lease.reports.until((1, 0))
    http_client.close()
    await lease.reports.until((0, 0))


async def test_when_all_who_waited_are_gone_at_the_grant_muxd_is_told(proxy_env: ProxyEnv) -> None:
    """It counts them as in flight until then."""
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta")))
    lease = await proxy_env.lease()
    http_client.close()
    await lease.reports.until((0, 0))
    told = len(lease.reports)
    lease.grant(proxy_env.beta.url)
    assert await lease.reports.nth(told) == (0, 0)


async def test_the_wait_is_reported_from_its_beginning(proxy_env: ProxyEnv) -> None:
    await (await proxy_env.connect()).send(post(chat("beta")))
    lease = await proxy_env.lease()
    since = trio.current_time()
    await trio.sleep(0.05)
    await (await proxy_env.connect()).send(post(chat("beta")))
    await lease.reports.until((0, 2))
    assert 0.05 <= lease.oldest[-1] < trio.current_time() - since + PATIENCE


async def test_the_age_of_the_oldest_answer_and_how_long_answers_usually_take_are_reported(
    proxy_env: ProxyEnv,
) -> None:
    await (await proxy_env.connect()).ask(post(chat()))
    proxy_env.alpha.answer = answer_when_released
    since = trio.current_time()
    await (await proxy_env.connect()).send(post(chat()))
    lease = await proxy_env.lease()
    await lease.reports.until((1, 0))
    await trio.sleep(0.1)
    await (await proxy_env.connect()).send(post(chat()))
    await lease.reports.until((2, 0))
    oldest, usual = lease.answering[-1]
    assert oldest is not None
    assert usual is not None
    assert 0.1 <= oldest <= trio.current_time() - since
    assert 0.0 < usual < PATIENCE


async def test_a_revoked_lease_is_drained_and_closed_and_asked_for_anew(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    first, second = await proxy_env.connect(), await proxy_env.connect()
    await first.send(post(chat()))
    call = await proxy_env.alpha.calls.nth(0)
    lease = await proxy_env.lease()
    del proxy_env.muxd.grants["alpha"]
    lease.revoke()
    await _active(proxy_env, None)
    await second.send(post(chat()))
    await lease.reports.until((1, 1))
    assert not lease.over.is_set()
    call.released.set()
    assert (await first.reply()).raw == OK
    await lease.ended()
    anew = await proxy_env.lease(1)
    assert anew.asked[0].count == 1
    assert len(proxy_env.alpha.calls) == 1
    anew.grant(proxy_env.beta.url, 2)
    assert (await second.reply()).raw == OK
    assert len(proxy_env.beta.calls) == 1


async def test_a_restored_lease_admits_again_and_cuts_nothing(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    first, second = await proxy_env.connect(), await proxy_env.connect()
    await first.send(post(chat()))
    call = await proxy_env.alpha.calls.nth(0)
    lease = await proxy_env.lease()
    lease.revoke(deadline=1.0)
    await _active(proxy_env, None)
    await second.send(post(chat()))
    await lease.reports.until((1, 1))
    lease.restore()
    other = await proxy_env.alpha.calls.nth(1)
    await lease.reports.until((2, 0))
    await trio.sleep(1.1)  # beyond the deadline that holds no more
    for released, http_client in ((call, first), (other, second)):
        released.released.set()
        assert (await http_client.reply()).raw == OK
    assert len(proxy_env.muxd.leases) == 1
    assert not lease.over.is_set()


async def test_a_mind_that_is_changed_twice_at_once_cuts_nothing_before_the_last_deadline(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    first = await proxy_env.connect()
    await first.send(post(chat()))
    call = await proxy_env.alpha.calls.nth(0)
    lease = await proxy_env.lease()
    lease.revoke(deadline=0.3)
    lease.restore()
    lease.revoke(deadline=30.0)
    await _active(proxy_env, None)
    await trio.sleep(0.5)
    call.released.set()
    assert (await first.reply()).raw == OK
    await lease.ended()


async def test_a_revoked_lease_without_work_is_closed_at_once(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    lease = await proxy_env.lease()
    lease.revoke()
    await lease.ended()
    assert len(proxy_env.muxd.leases) == 1


async def test_a_revoked_lease_closes_its_idle_connections_to_the_worker(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    (await proxy_env.lease()).revoke()
    assert await proxy_env.alpha.ended.nth(0) == 1


async def test_what_is_in_flight_at_the_deadline_is_cut_with_an_error(proxy_env: ProxyEnv) -> None:
    async def answer(call: Call) -> None:
        if b'"stream":true' in call.body:
            await call.send(SSE_HEAD + event("1"))
        await call.gone.wait()

    proxy_env.alpha.answer = answer
    plain, stream = await proxy_env.connect(), await proxy_env.connect()
    await plain.send(post(chat()))
    await stream.send(post(chat(stream=True)))
    await stream.until(event("1"))
    await proxy_env.alpha.calls.nth(1)
    lease = await proxy_env.lease()
    lease.revoke(deadline=0.05, message="beta waits")
    reply = await plain.reply()
    assert (reply.status, reply.code) == (503, "drain_timeout")
    assert "beta waits" in reply.message
    assert reply.header(b"retry-after") == b"1"
    rest = await stream.rest()
    assert b'"code":"drain_timeout"' in rest
    assert not rest.endswith(b"0\r\n\r\n")
    for call in proxy_env.alpha.calls:
        await call.aborted()
    await lease.ended()


async def test_a_second_revocation_brings_the_deadline_forward(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    lease = await proxy_env.lease()
    lease.revoke(deadline=None)
    lease.revoke(deadline=0.01)
    assert (await http_client.reply()).status == 503


async def test_when_muxd_ends_a_lease_nothing_stays_in_flight(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    call = await proxy_env.alpha.calls.nth(0)
    (await proxy_env.lease()).end()
    assert (await http_client.reply()).code == "lease_over"
    await call.aborted()


async def test_when_muxd_ends_a_draining_lease_the_drain_is_over(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    lease = await proxy_env.lease()
    lease.revoke(deadline=None)
    lease.end()
    assert (await http_client.reply()).code == "drain_timeout"


async def test_the_requests_of_a_lost_worker_are_told_why(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, max_body=2 * REPLAY_MOST) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(padding="x" * REPLAY_MOST)))  # more than is kept for another worker
        await proxy_env.alpha.calls.nth(0)
        (await proxy_env.lease()).revoke("worker_unresponsive", 0.0, "no answer to 3 probes")
        reply = await http_client.reply()
        assert (reply.status, reply.code) == (502, "worker_unresponsive")
        assert reply.message == "model alpha: no answer to 3 probes"


async def test_a_failed_lease_tells_all_who_wait(proxy_env: ProxyEnv) -> None:
    http_clients = [await proxy_env.connect() for _ in range(2)]
    await http_clients[0].send(post(chat("beta")))
    lease = await proxy_env.lease()
    await http_clients[1].send(post(chat("beta")))
    await lease.reports.until((0, 2))
    lease.fail("model_failed", "model beta failed: exited with status 1", 12.3)
    for http_client in http_clients:
        reply = await http_client.reply()
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "model_failed", b"13")
        assert "exited with status 1" in reply.message
    await lease.ended()


async def test_nobody_is_told_to_come_back_to_a_model_that_does_not_come_by_itself(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta")))
    (await proxy_env.lease()).fail("model_stopped", "model beta is stopped by an operator")
    reply = await http_client.reply()
    assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "model_stopped", None)


async def test_the_next_request_after_a_failure_asks_again(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta")))
    (await proxy_env.lease()).fail("shutting_down", "muxd is shutting down")
    assert (await http_client.reply()).header(b"retry-after") == b"5"
    await http_client.send(post(chat("beta")))
    (await proxy_env.lease(1)).grant(proxy_env.beta.url)
    assert (await http_client.reply()).status == 200


async def test_a_model_that_muxd_no_longer_has_is_not_found(proxy_env: ProxyEnv) -> None:
    proxy_env.muxd.models.pop()  # the proxy has not heard of it yet
    reply = await proxy_env.ask(post(chat("beta")))
    assert (reply.status, reply.code) == (404, "model_not_found")


@pytest.mark.parametrize(("eta", "retry_after"), [(40.0, b"40"), (299.0, b"60"), (1e6, b"60")])
async def test_a_request_waits_no_longer_than_switch_timeout(tmp_path: Path, eta: float, retry_after: bytes) -> None:
    """Clients with a bound of their own give up where they are to wait for longer."""
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.2}) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(post(chat("beta")))
        lease = await proxy_env.lease()
        lease.switching("starting", eta)
        reply = await http_client.reply()
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "switch_timeout", retry_after)
        told = f"model beta was not ready within 0.2 s (switch_timeout): starting, about {eta:.0f} s to go"
        assert reply.message == told
        await lease.reports.until((0, 0))


async def test_switch_timeout_ends_with_the_grant(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.2}) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        http_client = await proxy_env.connect()
        await http_client.send(post(chat()))
        call = await proxy_env.alpha.calls.nth(0)
        with trio.move_on_after(0.5):
            await call.gone.wait()
        call.released.set()
        assert (await http_client.reply()).raw == OK


async def _active(proxy_env: ProxyEnv, model: str | None) -> None:
    with trio.fail_after(5):
        while (await proxy_env.ask(get(b"/health"))).json["active_model"] != model:
            await trio.sleep(0.01)


async def test_with_a_held_lease_requests_make_no_round_trip_to_muxd(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    assert (await http_client.ask(post(chat()))).raw == OK
    await (await proxy_env.lease()).reports.until((0, 0))
    proxy_env.muxd.silent = True  # whoever asks it something now waits for ever
    for _ in range(20):
        assert (await http_client.ask(post(chat()))).raw == OK
    assert len(proxy_env.muxd.leases) == 1
