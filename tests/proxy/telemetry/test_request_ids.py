"""Taken from the client where it is good, else made."""

import pytest

from muxd.http.request import Headers, Request
from muxd.proxy.telemetry.request_ids import RequestId, RequestIds

HEADERS = ("x-request-id", "x-correlation-id", "request-id")


def given(*headers: tuple[bytes, bytes], ids: RequestIds | None = None) -> RequestId:
    sent: Headers = [(b"Host", b"a"), (b"Content-Type", b"application/json"), *headers]
    return (ids or RequestIds(HEADERS)).of(Request("POST", b"/", sent, b"", "1.1", True))


def test_the_clients_id_is_taken_and_told_back_under_its_name() -> None:
    found = given((b"X-Correlation-ID", b"abc-1"))
    assert (found.text, found.line) == ("abc-1", b"x-correlation-id: abc-1\r\n")
    assert (found.is_made, found.drop) == (False, b"")  # the worker gets the client's own header


def test_the_first_configured_header_goes_before_the_first_that_was_sent() -> None:
    assert (
        given((b"request-id", b"last"), (b"x-correlation-id", b"middle"), (b"x-request-id", b"first")).text == "first"
    )


def test_of_one_header_sent_twice_the_first_counts() -> None:
    assert given((b"x-request-id", b"one"), (b"x-request-id", b"two")).text == "one"


def test_without_one_an_id_is_made_for_the_client_and_the_worker() -> None:
    made = given()
    assert made.text
    assert made.is_made
    assert made.line == b"x-request-id: %b\r\n" % made.text.encode()
    assert made.drop == b""


def test_made_ids_differ_within_a_process_and_between_processes() -> None:
    one, other = RequestIds(HEADERS), RequestIds(HEADERS)
    assert len({given(ids=ids).text for ids in (one, other) * 1000}) == 2000


@pytest.mark.parametrize(
    "value",
    [b"", b"a\tb", b"a\x1b[31mb", b"a\x7f", "ä".encode(), b"\xff", b"x" * 129],
    ids=["empty", "tab", "escape", "delete", "utf-8", "not utf-8", "too long"],
)
def test_an_unusable_id_is_replaced_under_its_own_name(value: bytes) -> None:
    made = given((b"Request-Id", value))
    assert made.is_made
    assert made.line == b"request-id: %b\r\n" % made.text.encode()
    assert made.drop == b"Request-Id"  # the worker is not to see two
    assert 0 < len(made.text) <= 128


def test_the_longest_id_and_blanks_within_one_are_fine() -> None:
    assert given((b"x-request-id", b"x" * 128)).text == "x" * 128
    assert given((b"x-request-id", b"a b")).text == "a b"


def test_another_header_of_the_same_length_is_none() -> None:
    assert given((b"x-request-ix", b"no")).text != "no"


def test_any_configured_name_works() -> None:
    ids = RequestIds(("X-Trace",))
    assert given((b"x-trace", b"abc"), ids=ids).text == "abc"
    assert given(ids=ids).line.startswith(b"x-trace: ")


def test_without_any_header_an_id_is_for_the_log_alone() -> None:
    ids = RequestIds(())
    made = [given(ids=ids) for _ in range(200)]
    assert len({id.text for id in made}) == 200
    assert {id.line for id in made} == {b""}
