"""How long a client wants a model kept awake, as it is written in a body."""

from math import inf

import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.requests.keep_alive import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"", None), (b"null", None), (b'""', None), (b"300", 300.0), (b"1.5", 1.5), (b"0", 0.0), (b"-1", inf),
        (b'"10m"', 600.0), (b'"1h30m"', 5400.0), (b'"300ms"', 0.3), (b'"-1m"', inf), (b'"90"', 90.0), (b'"0s"', 0.0),
        ('"5µs"'.encode(), 5e-6), (b'"1.5h"', 5400.0), (b'"+2s"', 2.0),
    ],
)  # fmt: skip
def test_seconds_and_durations_as_go_writes_them_are_read(text, seconds):
    assert seconds_of("keep_alive", text) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    "text", [b'"soon"', b"true", b"[5]", b'"5 min"', b"{}", b'"' + b"1" * 99 + b'"', b'"1h5"', b"1e999"]
)
def test_what_is_no_duration_is_refused_with_what_to_write(text):
    with pytest.raises(Refusal) as refused:
        seconds_of("ttl", text)
    assert (refused.value.status, refused.value.code) == (400, "invalid_ttl")
    assert 'write seconds, or a text such as "10m"' in refused.value.message
