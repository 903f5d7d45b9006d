"""A port of its own for Prometheus."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from muxd.notify import Notifier
from muxd.ports import METRICS, CannotListen, listen_at
from muxd.proxy.telemetry.metrics_port import RETRY, listen_again, listen_for_metrics, serve_metrics


async def page() -> bytes:
    return b"muxd_up 1.0\n"


@pytest.fixture
async def prometheus() -> AsyncIterator[httpx.AsyncClient]:
    listener = listen_at("127.0.0.1", 0, METRICS)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=url) as client:
        await nursery.start(serve_metrics, listener, page)
        yield client
        nursery.cancel_scope.cancel()


async def test_the_page_is_at_metrics(prometheus: httpx.AsyncClient) -> None:
    answer = await prometheus.get("/metrics?name[]=x")
    assert (answer.status_code, answer.text) == (200, "muxd_up 1.0\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_head_has_the_same_head_and_no_body(prometheus: httpx.AsyncClient) -> None:
    answer = await prometheus.head("/metrics")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "12", b"")


async def test_the_root_points_there(prometheus: httpx.AsyncClient) -> None:
    assert "/metrics" in (await prometheus.get("/")).text


async def test_nothing_else_is_there(prometheus: httpx.AsyncClient) -> None:
    assert (await prometheus.get("/v1/models")).status_code == 404
    answer = await prometheus.post("/metrics")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_web_page_does_not_reach_it_by_a_name_of_its_own(prometheus: httpx.AsyncClient) -> None:
    refused = await prometheus.get("/metrics", headers={"Host": "evil.example:30101"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
    assert (await prometheus.get("/metrics", headers={"Host": "localhost:30101"})).status_code == 200


@pytest.mark.parametrize(("names", "status"), [(("gpu1.example",), 200), (("*",), 200), (("gpu2.example",), 403)])
async def test_the_names_of_the_configuration_reach_it(names: tuple[str, ...], status: int) -> None:
    listener = listen_at("127.0.0.1", 0, METRICS)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        await nursery.start(serve_metrics, listener, page, names)
        assert (await client.get(url, headers={"Host": "gpu1.example"})).status_code == status
        nursery.cancel_scope.cancel()


async def test_a_page_takes_its_time_while_another_client_is_answered() -> None:
    asked, go = trio.Event(), trio.Event()

    async def slow_page() -> bytes:
        asked.set()
        await go.wait()
        return b"slow\n"

    listener = listen_at("127.0.0.1", 0, METRICS)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    answers: list[str] = []

    async def scrape() -> None:
        answers.append((await client.get("/metrics")).text)

    async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=url) as client:
        await nursery.start(serve_metrics, listener, slow_page)
        async with trio.open_nursery() as scraping:
            scraping.start_soon(scrape)
            await asked.wait()
            assert "/metrics" in (await client.get("/")).text
            go.set()
        nursery.cancel_scope.cancel()
    assert answers == ["slow\n"]


async def test_a_port_that_is_taken_is_told_with_the_setting_that_has_it_and_tried_again(
    caplog, autojump_clock
) -> None:
    with listen_at("127.0.0.1", 0, METRICS) as listener:
        port = listener.getsockname()[1]
        assert listen_for_metrics("127.0.0.1", port, Notifier(None)) is None
        assert re.search(rf"at 127.0.0.1:{port}: .*; see \[proxy\] metrics_listen", caplog.text)
        with trio.move_on_after(3 * RETRY):
            await listen_again("127.0.0.1", port, Notifier(None))
            raise AssertionError("somebody has it")
    (await listen_again("127.0.0.1", port, Notifier(None))).close()


def test_an_address_that_is_not_here_is_told() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1:9"):
        listen_for_metrics("192.0.2.1", 9, Notifier(None))
