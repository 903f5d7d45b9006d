"""What is changed in a body, and that nothing else is."""

import json
from typing import Any

import msgspec
import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.requests import routes
from muxd.proxy.requests.edits import Edits
from muxd.proxy.requests.json_spans import members
from muxd.proxy.requests.multipart import read_form

from .asking import BOUNDARY, ask, form, part, send_form
from .random_input import RandomInput


def edited(body: bytes, upstream_name: str = "", strip: tuple[str, ...] = (), **set_params: Any) -> bytes | None:
    request = ask(b"/generate", body, headers=((b"x-muxd-model", b"client"),))
    found = routes.find(request)
    assert isinstance(found, routes.WorkerRequest)
    return Edits(upstream_name, set_params, strip).apply(request, found.asked)


def test_without_edits_the_body_is_the_clients():
    assert Edits("", {}, ()).idle
    assert edited(b'{"model": "m"}') is None


def test_a_model_that_is_called_by_its_upstream_name_is_left_alone():
    assert edited(b'{"model": "org/m"}', "org/m") is None


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model":"m"}', b'{"model":"org/new"}'),
        (b' {\t"x" : [1, {"model": "m"}] ,\r\n"model"\n: "m" , "y":"\\"model\\":\\"m\\""}\n', None),
        (b'{"model": "first", "model": "m"}', b'{"model": "first", "model": "org/new"}'),
        (b'{"model": "m", "model": "m"}', b'{"model": "m", "model": "org/new"}'),
        (b'{"model": "first", "mod\\u0065l": "m", "x": 1}', b'{"model": "first", "mod\\u0065l": "org/new", "x": 1}'),
        (b'{"\xc3\xa9": "\\ud83d\\ude00\xe2\x82\xac", "model": "m"}', None),
        (b'{"text": "model", "mod\\u0065l": "m"}', b'{"text": "model", "mod\\u0065l": "org/new"}'),
        (b'{"x": {"model": "no"}, "mod\\u0065l": "m"}', b'{"x": {"model": "no"}, "mod\\u0065l": "org/new"}'),
        (b'{"stop": ["model"], "model": "m"}', b'{"stop": ["model"], "model": "org/new"}'),
    ],
)
def test_the_model_is_replaced_and_every_other_byte_is_kept(body, result):
    if result is None:
        head, _, tail = body.rpartition(b'"m"')
        result = head + b'"org/new"' + tail
    assert edited(body, "org/new") == result


@pytest.mark.parametrize("body", [b'{"text": "x"}', b'{"x": {"model": "client"}}', b'{"model": null, "text": "model"}'])
def test_a_body_whose_model_a_header_names_is_left_alone(body):
    assert edited(body, "org/new") is None


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model": "m"}', b'{"model": "m","top_k":5}'),
        (b'{"model": "m" , "top_k" : 1.50 }\n', b'{"model": "m" , "top_k" : 5 }\n'),
        (b'{"top_k": 1, "top_k": {"a": [2]}, "model": "m"}', b'{"top_k": 1, "top_k": 5, "model": "m"}'),
        (b'{"x": {"top_k": 1}, "model": "m" }', b'{"x": {"top_k": 1}, "model": "m","top_k":5 }'),
        (b"{}", b'{"top_k":5}'),
        (b" { } ", b' {"top_k":5 } '),
    ],
)
def test_a_field_is_set_where_it_is_or_at_the_end(body, result):
    assert edited(body, top_k=5) == result


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"a": 1, "model": "m"}', b'{"model": "m"}'),
        (b'{"model": "m", "a": 1}', b'{"model": "m"}'),
        (b'{"model": "m" , "a": [1, "}"] , "z": 2}', b'{"model": "m" , "z": 2}'),
        (b'{"a": 1, "b": 2, "model": "m", "a": 3, "b": 4 }', b'{"model": "m" }'),
        (b'{ "a": 1 , "b": null }', b"{  }"),
        (b'{"model": "m", "x": {"a": 1}}', b'{"model": "m", "x": {"a": 1}}'),
    ],
)
def test_a_field_is_taken_out_with_its_comma(body, result):
    assert edited(body, strip=("a", "b")) == result


def test_what_is_set_is_not_taken_out_and_the_model_never_is():
    assert edited(b'{"a": 1, "model": "m"}', strip=("a", "model"), a=2) == b'{"a": 2, "model": "m"}'


def test_all_at_once():
    body = b'{"drop": 0, "model": "m", "keep": [1,  2], "temperature": 1, "drop": {}}'
    result = edited(body, "org/new", ("drop",), temperature=0.2, stop=["\n"])
    assert result == b'{"model": "org/new", "keep": [1,  2], "temperature": 0.2,"stop":["\\n"]}'


def test_a_number_that_begins_another_is_not_taken_for_it():
    assert edited(b'{"a": 12, "b": 3, "a": 1}', strip=("b",)) == b'{"a": 12, "a": 1}'
    assert (
        edited(b'{"a": 1' + b"0" * 6000 + b', "b": 3, "a": 1}', strip=("b",)) == b'{"a": 1' + b"0" * 6000 + b', "a": 1}'
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{" + b",".join(b'"%d":0' % n for n in range(10_001)) + b"}", "more than 10000 top-level fields"),
        (b'{"%b":0}' % (b"x" * 255), "a top-level field's name is longer than 256 bytes"),
        (b'{"%b":0}' % (b"\\n" * 129), "a top-level field's name is longer than 256 bytes"),
        (b'{"\\ud800": 1}', "not JSON"),
        (b'{"a": "\\ud800", "a": 1}', "not JSON"),
    ],
)
def test_a_body_that_costs_too_much_or_is_no_json_is_refused(body, problem):
    with pytest.raises(Refusal) as caught:
        edited(body, top_k=5)
    assert caught.value.status == 400
    assert problem in caught.value.message


def test_the_adapter_that_is_asked_for_follows_the_new_name():
    def applied(edits: Edits, asked: str, adapter: str) -> bytes | None:
        return edits.apply(ask(b"/generate", {"model": asked}), routes.request_info.RequestInfo(asked), adapter)

    for edits, rest in ((Edits("base-e", {}, ()), b""), (Edits("base-e", {"a": 1}, ()), b',"a":1')):
        assert applied(edits, "e:ad1", "ad1") == b'{"model": "base-e:ad1"%b}' % rest
        assert applied(edits, "e:14b", "") == b'{"model": "base-e"%b}' % rest
    assert applied(Edits("base-e", {}, ()), "base-e:ad1", "ad1") is None
    assert applied(Edits("", {"a": 1}, ()), "e:ad1", "ad1") == b'{"model": "e:ad1","a":1}'
    request = send_form(form(part("model", b"e:ad1"), AUDIO))
    assert Edits("base-e", {}, ()).apply(request, routes.request_info.in_form(request), "ad1") == request.body.replace(
        b"e:ad1", b"base-e:ad1"
    )


# Against json, on random documents


def pairs(body: bytes) -> list[tuple[str, str]]:
    """The top-level members in their order, duplicates too, each value in one spelling."""
    found: list[tuple[str, Any]] = json.JSONDecoder(object_pairs_hook=list).decode(body.decode())
    return [(name, json.dumps(value)) for name, value in found]


def expected(body: bytes, new: dict[str, Any], gone: set[str]) -> list[tuple[str, str]]:
    """What edits are to leave, by another way."""
    found = pairs(body)
    last = {name: index for index, (name, _) in enumerate(found)}
    texts = {name: json.dumps(value) for name, value in new.items()}
    kept = [
        (name, texts[name] if name in texts and last[name] == index else value)
        for index, (name, value) in enumerate(found)
        if name not in gone
    ]
    return kept + [(name, text) for name, text in texts.items() if name not in last]


@pytest.mark.parametrize("seed", range(40))
def test_random_documents_are_changed_as_json_says(seed):
    random_input = RandomInput(seed)
    for _ in range(100):
        body = random_input.document()
        new = {
            name: random_input.draw.choice((1, "x", None, []))
            for name in random_input.draw.sample(random_input.NAMES[1:], 2)
        }
        gone = set(random_input.draw.sample(random_input.NAMES[1:], 2)) - new.keys()
        result = Edits("", new, tuple(gone)).apply(ask(b"/generate", body), routes.request_info.RequestInfo("m"))
        assert result is not None
        msgspec.json.decode(result)
        assert pairs(result) == expected(body, new, gone), body


SHARDS = (*(b"%c" % one for one in b'{}[],:"\\ 019-.eEtfnul\n\x00\xff'), b"", b'""', b"null", b"1.5e9", b"{}", b"[]")


def values(body: bytes) -> dict[str, bytes] | None:
    """What msgspec finds in it; None where it is no object."""
    try:
        found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return {name: bytes(value) for name, value in found.items()}


def located(body: bytes) -> dict[str, bytes] | None:
    try:
        return {member.name: body[member.start : member.end] for member in members(body)}
    except Refusal:
        return None


@pytest.mark.parametrize("seed", range(20))
def test_what_is_broken_in_random_documents_is_refused_and_nothing_else(seed):
    random_input = RandomInput(2000 + seed)
    for _ in range(300):
        body = bytearray(random_input.document())
        for _ in range(random_input.draw.choice((1, 1, 2))):
            at = random_input.draw.randrange(len(body) + 1)
            body[at : at + random_input.draw.choice((0, 1, 1, 5))] = random_input.draw.choice(SHARDS)
        assert located(bytes(body)) == values(bytes(body)), body


@pytest.mark.parametrize("seed", range(20))
def test_in_random_documents_only_the_models_bytes_are_replaced(seed):
    random_input = RandomInput(1000 + seed)
    for _ in range(100):
        before, after = random_input.members(), ["", ', "b" : [1]', ',"z":{"model":"m"}', ',"stream":true , "é":0']
        key, value = random_input.string("model"), random_input.string("the client's own")
        head = (
            "{"
            + "".join(f"{one}{random_input.space()}," for one in before)
            + f"{random_input.space()}{key}{random_input.space()}:{random_input.space()}"
        )
        tail = random_input.space() + random_input.draw.choice(after) + "}\n"
        request = ask(b"/v1/completions", f"{head}{value}{tail}".encode())
        found = routes.find(request)
        assert isinstance(found, routes.WorkerRequest)
        assert found.asked.model == "the client's own"
        assert Edits("org/new", {}, ()).apply(request, found.asked) == f'{head}"org/new"{tail}'.encode()


# Forms


def fields(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(one.name, body[one.start : one.end]) for one in read_form(send_form(body)).parts]


AUDIO = part("file", b"RIFF\x00\r\n", "a.wav")


def edited_form(body: bytes, upstream_name: str = "", strip: tuple[str, ...] = (), **set_params: Any) -> bytes | None:
    request = send_form(body)
    found = routes.find(request)
    assert isinstance(found, routes.WorkerRequest)
    return Edits(upstream_name, set_params, strip).apply(request, found.asked)


def test_a_forms_model_is_replaced_and_every_other_byte_is_kept():
    for parts in ((AUDIO, b"%b"), (b"%b", AUDIO), (part("model", b"first"), AUDIO, b"%b")):
        body = form(*parts)
        old, new = part("model", b"whisper"), part("model", b"org/new")
        assert edited_form(body.replace(b"%b", old), "org/new") == body.replace(b"%b", new)
    assert edited_form(form(part("model", b"org/new"), AUDIO), "org/new") is None


def test_a_forms_fields_are_set_and_taken_out():
    body = form(part("language", b"de"), part("x", b"1"), AUDIO, part("model", b"whisper"), part("x", b"2"))
    result = edited_form(body, strip=("x", "model"), language="en", temperature=0.5, stream=True)
    assert result is not None
    assert fields(result) == [
        (b"language", b"en"),
        (b"file", b"RIFF\x00\r\n"),
        (b"model", b"whisper"),
        (b"stream", b"true"),
        (b"temperature", b"0.5"),
    ]
    assert result.endswith(b"--%b--\r\n" % BOUNDARY)


def test_a_list_becomes_a_field_for_each_of_its_items():
    body = form(AUDIO, part("model", b"whisper"), part("timestamp_granularities[]", b"none"))
    result = edited_form(body, **{"timestamp_granularities[]": ["word", "segment"]})
    assert result is not None
    assert fields(result)[2:] == [(b"timestamp_granularities[]", b"word"), (b"timestamp_granularities[]", b"segment")]


def test_what_has_no_body_is_not_edited():
    request = ask(b"/upstream/m/model_info", method="GET")
    found = routes.find(request)
    assert isinstance(found, routes.WorkerRequest)
    assert Edits("org/new", {"a": 1}, ("b",)).apply(request, found.asked) is None
