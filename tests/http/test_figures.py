"""The listed figures of Content-Length: each is the only one that is right."""

import pytest

from muxd.http.figures import FIGURES, LISTED
from muxd.http.known_heads import KnownHeads
from muxd.http.request import RequestParser

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def test_a_figure_is_listed_at_the_bytes_that_it_and_its_body_have_together() -> None:
    assert len(FIGURES) == LISTED
    for left, figure in enumerate(FIGURES):
        fitting = [size for size in range(max(0, left - 5), left) if len(b"%d" % size) + size == left]
        assert [figure] == [b"%d" % size for size in fitting] or (not fitting and len(figure) > left)


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 999, 1000, 9999, 10000, LISTED - 60, *range(LISTED - 52, LISTED)])
def test_a_request_of_any_size_is_read_behind_a_known_head_as_without(size: int) -> None:
    reader = RequestParser(max_head=4096, max_body=LISTED, known_heads=KnownHeads())
    (first,) = reader.feed(HEAD % 1 + b"x")
    (known,) = reader.feed(HEAD % size + b"x" * size)
    assert (known.body, known.header(b"content-length")) == (b"x" * size, b"%d" % size)
    assert first.known is not None
