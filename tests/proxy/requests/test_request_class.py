"""The class of a request: by its key, a header, or OpenAI's service_tier."""

from dataclasses import dataclass

import pytest

from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.requests.request_class import is_batch


@dataclass
class Key:
    is_batch: bool


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request("POST", b"/v1/chat/completions", list(headers), b"", "1.1", keep_alive=True)


@pytest.mark.parametrize(
    ("header", "tier", "key", "found"),
    [
        (None, b"", None, False),
        (b"batch", b"", None, True),
        (b" Batch ", b'"priority"', None, True),
        (b"interactive", b'"flex"', None, False),
        (None, b'"flex"', None, True),
        (None, b'"batch"', Key(False), True),
        (None, b'"auto"', Key(False), False),
        (None, b"", Key(True), True),
        (b"interactive", b'"priority"', Key(True), True),
    ],
)
def test_a_key_says_most_then_the_header_then_the_tier(header, tier, key, found):
    assert is_batch(request(*([(b"x-muxd-class", header)] if header else [])), tier, key) is found


def test_another_class_is_refused():
    with pytest.raises(Refusal) as refused:
        is_batch(request((b"x-muxd-class", b"urgent")), b"", None)
    assert (refused.value.status, refused.value.code) == (400, "invalid_class")
