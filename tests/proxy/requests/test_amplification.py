"""No body makes the proxy keep, while it reads it, more than a fraction of what the body itself takes.

As objects, what is in these bodies takes 20 to 30 times their size, and seconds, in which nobody
else is answered: what builds none of it takes no such time either.
"""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.requests import routes
from muxd.proxy.requests.edits import Edits
from muxd.proxy.requests.routes import WorkerRequest
from tests.seeds import thorough

from .asking import ask, form, part, send_form

SIZE = 1 << 20
BESIDE = 1 << 18  # bytes that may be taken beside the body

PATHS = [b"/v1/chat/completions", b"/api/chat"]
PATHS += thorough(b"/generate", b"/api/show", b"/api/embed", b"/api/embeddings")
EDITS = (Edits("new", {}, ()), Edits("", {"x": 1}, ("y",)), Edits("new", {"x": 1}, ("model",)))
EMOJI = "😀".encode()  # a text with it takes four bytes a character


def filled(text: bytes, separator: bytes = b",") -> bytes:
    return separator.join([text] * (SIZE // (len(text) + len(separator))))


VALUES = {
    "lists": lambda: b"[%b]" % filled(b"[]"),
    "objects": lambda: b"[%b]" % filled(b"{}"),
    "members": lambda: b"{%b}" % filled(b'"":0'),
    "numbers": lambda: b"[%b]" % filled(b"1"),
    "deep": lambda: b"[%b]" % filled(b"[" * 500 + b"]" * 500),
    "text": lambda: b'"%b%b"' % (EMOJI, b"a" * SIZE),
    "escapes": lambda: b'"%b"' % (b"\\n" * (SIZE // 2)),
    "digits": lambda: b"1" * SIZE,
    "space": lambda: b" " * SIZE + b"0" + b" " * SIZE,
}
WHOLE = {
    "many members": lambda: b'{"model":"m",%b}' % filled(b'"a":1'),
    "many models": lambda: b'{"model":"m",%b}' % filled(b'"model":1'),
    "many good models": lambda: b"{%b}" % filled(b'"model":"m"'),
    "a long key": lambda: b'{"model":"m","%b%b":1}' % (EMOJI, b"a" * SIZE),
    "a long key of escapes": lambda: b'{"model":"m","%b":1}' % (b"\\n" * (SIZE // 2)),
    "many long keys": lambda: b'{"model":"m",%b}' % filled(b'"%b%b":1' % (EMOJI, b"k" * 400)),
    "no end": lambda: b'{"model":"m","x":[%b' % filled(b"[]"),
    "no characters": lambda: b'{"model":"%b"}' % (b"\xff" * SIZE),
    "nesting": lambda: b'{"model":"m","x":%b' % (b"[" * SIZE),
    "no object": lambda: b"[%b]" % filled(b"[]"),
}


def peak(work: Callable[[], Any]) -> tuple[Any, int]:
    """What it returns, or its refusal, and how many bytes were taken at the most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        try:
            result = work()
        except Refusal as refusal:
            result = refusal
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def check(request, edits=EDITS) -> None:
    found, taken = peak(lambda: routes.find(request))
    assert taken < BESIDE
    assert not isinstance(found, Refusal) or found.status == 400
    for edit in edits if isinstance(found, WorkerRequest) else ():
        result, taken = peak(lambda edit=edit: edit.apply(request, found.asked))
        assert taken < BESIDE + (len(result) if isinstance(result, bytes) else 0)


def test_to_build_what_is_in_them_would_be_noticed():
    assert peak(lambda: json.loads(VALUES["lists"]()))[1] > 10 * SIZE


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", VALUES)
def test_a_field_may_hold_anything(path, kind):
    value = VALUES[kind]()
    for body in (
        b'{"model":"m","stream":%b}',
        b'{"model":%b}',
        b'{"name":%b}',
        b'{"model":"m","input":%b}',
        b'{"model":"m","prompt":%b}',
        b'{"model":"m","x":%b}',
        b'{"x":%b,"x":1,"model":"m"}',
        b'{"model":%b,"model":"m"}',
        b'{"y":%b,"y":[],"model":"m","model":"mm"}',
    ):
        check(ask(path, body % value, headers=((b"x-muxd-model", b"h"),)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_body_may_be_anything(path, kind):
    check(ask(path, WHOLE[kind]()))


@pytest.mark.parametrize("kind", VALUES)
def test_the_last_of_two_fields_counts_whatever_the_first_holds(kind):
    found = routes.find(
        ask(b"/v1/completions", b'{"model":%b,"model":"m","stream":%b,"stream":1}' % ((VALUES[kind](),) * 2))
    )
    assert isinstance(found, WorkerRequest)
    assert (found.asked.model, found.streams) == ("m", True)


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind != "digits"])
def test_what_is_no_truth_value_is_not_true_and_what_is_no_text_names_no_model(kind):
    found = routes.find(ask(b"/api/chat", b'{"model":"m","stream":%b}' % VALUES[kind]()))
    assert isinstance(found, WorkerRequest)
    assert not found.asked.stream
    with pytest.raises(Refusal) as caught:
        routes.find(ask(b"/api/chat", b'{"model":%b}' % VALUES[kind]()))
    assert (caught.value.status, caught.value.code) == (400, "invalid_model")


def test_a_long_body_is_edited_like_a_short_one():
    for size in (10, 7 << 10, 9 << 10, 60 << 10, 70 << 10, 1 << 20):
        body = b'{"x": 1, "text":"%b" , "x": [ %b0 ] , "model" : "m"}' % (b"a" * size, b"[], " * size)
        request = ask(b"/v1/completions", body)
        found = routes.find(request)
        assert isinstance(found, WorkerRequest)
        assert EDITS[0].apply(request, found.asked) == body.replace(b'"m"', b'"new"')
        assert EDITS[1].apply(request, found.asked) == body.replace(b"[ %b0 ]" % (b"[], " * size), b"1")


# Forms

MODEL = part("model", b"m")
WIDE = MODEL.replace(b'"model"', b'"model"' + b"; a=b" * 3000)


@pytest.mark.parametrize(
    "body",
    [
        form(part("model", b"m" * SIZE)),
        form(part("model", EMOJI * (SIZE // 4))),
        form(MODEL, part("stream", b"1" * SIZE)),
        form(MODEL, part("file", b"\r\n--" * (SIZE // 4), "a.wav")),
        form(*[MODEL] * 400, part("model", b"m" * SIZE), *[MODEL] * 399),
        form(*[WIDE] * 300),
        form(MODEL)[:-4] + b" " * SIZE,
    ],
)
def test_a_form_may_hold_anything(body):
    check(send_form(body))


def test_the_heads_of_a_forms_parts_are_bounded_together():
    with pytest.raises(Refusal) as caught:
        routes.find(send_form(form(*[WIDE] * 5)))
    assert (caught.value.status, caught.value.code) == (400, "invalid_form")
    assert "the heads of its parts have more than 65536 bytes together" in caught.value.message
    routes.find(send_form(form(part("file", b"RIFF", "a.wav"), *[WIDE] * 4)))


def test_a_field_of_a_form_that_is_too_long_for_a_name_is_none():
    with pytest.raises(Refusal) as caught:
        routes.find(send_form(form(part("model", b"m" * 65_537))))
    assert (caught.value.code, caught.value.message) == ("invalid_model", '"model" is longer than 65536 bytes')
