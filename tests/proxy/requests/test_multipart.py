"""Forms: their fields are found where they lie, and what is not clear is refused."""

import os
from contextlib import suppress

import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.requests.multipart import read_form

from .asking import BOUNDARY, form, part, send_form

AUDIO = part("file", b"RIFF\x00\xff\r\n\r\n--not a boundary\r\n", "speech.wav")
MODEL = part("model", b"whisper")


def model_of(body: bytes, content_type: bytes | None = None) -> bytes | None:
    return read_form(send_form(body) if content_type is None else send_form(body, content_type)).value(b"model", 100)


@pytest.mark.parametrize("body", [form(MODEL, AUDIO), form(AUDIO, MODEL), form(MODEL), b"\r\n" + form(AUDIO, MODEL)])
def test_the_model_is_found_before_and_after_the_file(body):
    assert model_of(body) == b"whisper"


def test_the_model_is_found_beside_25_mb_of_audio():
    noise = part("file", os.urandom(1 << 20) * 25, "speech.wav")
    assert model_of(form(noise, MODEL)) == model_of(form(MODEL, noise)) == b"whisper"


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="%b"' % BOUNDARY,
        b"Multipart/Form-Data;boundary=%b" % BOUNDARY,
        b"multipart/form-data; charset=utf-8; BOUNDARY = %b ;" % BOUNDARY,
        b'multipart/form-data; x="boundary=no; a\\"b"; boundary=%b' % BOUNDARY,
    ],
)
def test_the_boundary_is_read_as_it_may_be_written(content_type):
    assert model_of(form(AUDIO, MODEL), content_type) == b"whisper"


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="model"',
        b"content-disposition:form-data;name=model",
        b'Content-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; NAME="model"\r\nX: y',
        b'Content-Disposition: form-data; other="; name=no"; name="mod\\el"'.replace(b"\\", b""),
    ],
)
def test_a_fields_name_is_read_as_it_may_be_written(head):
    assert model_of(b"--%b\r\n%b\r\n\r\nwhisper\r\n--%b--" % (BOUNDARY, head, BOUNDARY)) == b"whisper"


def test_spaces_after_a_boundary_and_what_follows_the_last_are_let_through():
    assert model_of(form(MODEL).replace(BOUNDARY + b"\r\n", BOUNDARY + b" \t\r\n", 1) + b"epilogue") == b"whisper"


def test_of_several_fields_of_one_name_the_last_counts_but_never_a_file():
    assert model_of(form(part("model", b"first"), MODEL, part("model", b"x", "a.wav"))) == b"whisper"
    assert model_of(form(part("model", b"x", "a.wav"))) is None


def test_a_field_may_be_empty():
    assert model_of(form(part("model", b""))) == b""


def test_a_boundary_that_begins_another_is_told_apart_from_it():
    body = form(part("file", b"\r\n--" + BOUNDARY[:-1] + b"\r\n", "a"), MODEL)
    assert model_of(body) == b"whisper"


@pytest.mark.parametrize(
    ("body", "content_type", "problem"),
    [
        (form(MODEL), b"multipart/form-data", "names no boundary"),
        (form(MODEL), b"multipart/form-data; boundary=", "names no boundary"),
        (form(MODEL), b'multipart/form-data; boundary="unfinished', "names no boundary"),
        (form(MODEL), b"multipart/form-data; boundary=" + b"x" * 71, "at most 70 characters"),
        (form(MODEL), b"multipart/form-data; boundary=other", "does not begin with its boundary 'other'"),
        (b"preamble\r\n" + form(MODEL), None, "does not begin with its boundary"),
        (b"", None, "does not begin with its boundary"),
        (MODEL, None, "part 1 has no end"),
        (form(AUDIO, MODEL)[:-80], None, "part 2 has no"),
        (b"--" + BOUNDARY, None, "after the boundary of part 1 there is no end of line"),
        (form(MODEL).replace(b"\r\n", b"\n"), None, "after the boundary of part 1 there is no end of line"),
        (
            b"--%b\r\nContent-Type: text/plain\r\n\r\nx\r\n--%b--" % (BOUNDARY, BOUNDARY),
            None,
            "part 1 has no Content-D",
        ),
        (b"--%b\r\n\r\nx\r\n--%b--" % (BOUNDARY, BOUNDARY), None, "part 1 has no Content-Disposition"),
        (form(MODEL).replace(b'name="model"', b'nome="model"'), None, "part 1 has no name"),
        (form(AUDIO, MODEL).replace(b'name="model"', b'name="model'), None, "of part 2 is not clear"),
        (form(MODEL).replace(b'name="model"', b'x="a"; name=no"model"'), None, "of part 1 is not clear"),
        (form(MODEL).replace(b'"model"', b'"model"\nX: y'), None, "the head of part 1 has a bare end of line"),
        (form(*[MODEL] * 1001), None, "more than 1000 parts"),
        (
            form(MODEL).replace(b"form-data; ", b"form-data; x=" + b"y" * 20_000 + b"; "),
            None,
            "part 1 has no Content-D",
        ),
    ],
)
def test_what_is_not_clear_is_refused_with_what_is_wrong(body, content_type, problem):
    with pytest.raises(Refusal) as caught:
        model_of(body, content_type)
    assert (caught.value.status, caught.value.code) == (400, "invalid_form")
    assert problem in caught.value.message


def test_reading_it_copies_no_audio():
    noise = part("file", os.urandom(1 << 20), "speech.wav")
    request = send_form(form(noise, MODEL))
    assert read_form(request).body is request.body


WHOLE = form(AUDIO, MODEL)


def test_a_form_that_is_cut_off_is_refused_wherever_it_is():
    end = WHOLE.index(b"--", WHOLE.index(b"whisper")) + len(BOUNDARY) + 4
    for size in range(end):
        with pytest.raises(Refusal):
            model_of(WHOLE[:size])
    assert model_of(WHOLE[:end]) == b"whisper"


def test_a_byte_that_is_wrong_makes_a_refusal_or_another_name_and_nothing_worse():
    outcomes = set()
    for at in range(len(WHOLE)):
        broken = bytearray(WHOLE)
        broken[at] ^= 0x55
        with suppress(Refusal):
            outcomes.add(model_of(bytes(broken)))
    assert {b"whisper", None} < outcomes


@pytest.mark.parametrize(
    ("content_type", "problem"),
    [
        (b"application/json", "this route takes multipart/form-data, not application/json"),
        (b"application/x-www-form-urlencoded", "not application/x-www-form-urlencoded"),
        (b"", "not no Content-Type"),
    ],
)
def test_what_is_said_to_be_no_form_is_not_read_as_one(content_type, problem):
    with pytest.raises(Refusal) as caught:
        model_of(form(MODEL), content_type)
    assert (caught.value.status, caught.value.code) == (415, "invalid_content_type")
    assert problem in caught.value.message
