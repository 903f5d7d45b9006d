"""Ollama's requests for embeddings: what of them the worker is told, and what is refused before it is woken."""

import msgspec
import pytest

from muxd.proxy.requests import routes
from muxd.proxy.requests.embeddings import AskedEmbeddings, Vectors, nothing
from muxd.proxy.requests.routes import WorkerRequest

from .asking import ask
from .test_routes import refused

EMBED, EMBEDDINGS = b"/api/embed", b"/api/embeddings"


def asked(path: bytes, body: bytes) -> AskedEmbeddings:
    found = routes.find(ask(path, body))
    assert isinstance(found, WorkerRequest)
    assert (found.target, found.label, found.streams) == (b"/v1/embeddings", path.decode(), False)
    assert isinstance(found.asked, AskedEmbeddings)
    return found.asked


def told(path: bytes, body: bytes) -> bytes:
    return asked(path, body).told(body, "m")


@pytest.mark.parametrize(
    "text", ['"hi"', '""', '"a\\"b\\\\"', '["a"]', '[ "a" , "b,]" ]', '["ä", "\\u00e4", ""]', '[""]']
)
def test_texts_are_passed_on_as_they_are_written(text):
    body = b'{"truncate": true, "input": %b , "model": "m", "options": {"num_ctx": 4}}' % text.encode()
    assert told(EMBED, body) == b'{"model":"m","input":%b}' % text.encode()


def test_the_older_route_has_one_text_in_its_prompt():
    assert told(EMBEDDINGS, b'{"model": "m", "prompt": "hi", "input": 7}') == b'{"model":"m","input":"hi"}'


@pytest.mark.parametrize(("dimensions", "passed"), [("256", True), ("0", False), ("null", False)])
def test_dimensions_are_passed_on_where_there_are_some(dimensions, passed):
    body = b'{"model": "m", "input": "hi", "dimensions": %b}' % dimensions.encode()
    assert told(EMBED, body) == b'{"model":"m","input":"hi"%b}' % (b',"dimensions":256' if passed else b"")


@pytest.mark.parametrize("text", ["7", "true", "{}", "[1, 2]", '["a", 1]', '["a", null]', '[["a"]]', '[{"text": "a"}]'])
def test_what_is_no_text_is_refused(text):
    refusal = refused(ask(EMBED, b'{"model": "m", "input": %b}' % text.encode()))
    assert (refusal.status, refusal.param, refusal.message) == (
        400,
        "input",
        '"input" must be a text or a list of texts',
    )
    assert refused(ask(EMBEDDINGS, b'{"model": "m", "prompt": %b}' % text.encode())).param == "prompt"


def test_one_text_is_no_list():
    assert refused(ask(EMBEDDINGS, b'{"model": "m", "prompt": ["a"]}')).message == '"prompt" must be a text'


@pytest.mark.parametrize("dimensions", ["-1", "1.5", '"8"', "[]", "true", "12345678901"])
def test_odd_dimensions_are_refused(dimensions):
    refusal = refused(ask(EMBED, b'{"model": "m", "input": "a", "dimensions": %b}' % dimensions.encode()))
    assert (refusal.status, refusal.param) == (400, "dimensions")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"input": "a"}', b'{"model": 7, "input": "a"}', b'{"model": "m", "input": "a']
)
def test_a_body_that_names_no_model_is_refused(body):
    assert refused(ask(EMBED, body)).status == 400


@pytest.mark.parametrize("more", ["", ', "input": null', ', "input": ""', ', "input": [ ]'])
def test_without_a_text_only_the_model_is_wanted(more):
    wanted = asked(EMBED, b'{"model": "m"%b}' % more.encode())
    assert (wanted.preloads(), wanted.unloads()) == (True, False)
    gone = asked(EMBED, b'{"model": "m", "keep_alive": "0s"%b}' % more.encode())
    assert (gone.preloads(), gone.unloads()) == (True, True)


def test_a_text_may_let_the_model_go_too():
    wanted = asked(EMBEDDINGS, b'{"model": "m", "prompt": "hi", "keep_alive": 0}')
    assert (wanted.preloads(), wanted.unloads()) == (False, True)


def test_of_two_fields_the_last_counts():
    body = b'{"model": "a", "input": "x", "model": "b", "input": ["y"]}'
    assert asked(EMBED, body).model == "b"
    assert told(EMBED, body) == b'{"model":"m","input":["y"]}'


ANSWER = b"""{"data": [{"embedding": [0.50, 2e-3], "index": 1}, {"embedding": [1.0], "index": 0, "object": "x"}],
 "model": "path", "usage": {"prompt_tokens": 5, "total_tokens": 5}}"""


def test_vectors_come_in_the_order_of_their_texts_and_as_they_are_written():
    answer = Vectors(ANSWER).answer("m:latest", "/api/embed", 1.5, 0.25)
    assert msgspec.json.encode(answer) == (
        b'{"model":"m:latest","embeddings":[[1.0],[0.50, 2e-3]],'
        b'"total_duration":1500000000,"load_duration":250000000,"prompt_eval_count":5}'
    )
    assert msgspec.json.encode(Vectors(ANSWER).answer("m", "/api/embeddings", 1, 1)) == b'{"embedding":[1.0]}'


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"data": 1}', b'{"data": [{}]}', b"\xff", b"[" * 5000])
def test_what_is_no_answer_is_told_from_one(body):
    with pytest.raises(ValueError, match="its answer has no embeddings"):
        Vectors(body)


def test_nothing_is_an_empty_list():
    assert nothing("m", "/api/embed") == {"model": "m", "embeddings": []}
    assert nothing("m", "/api/embeddings") == {"embedding": []}
