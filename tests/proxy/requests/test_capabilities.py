"""A model of embeddings is not asked for text, of which its server would die."""

import pytest

from muxd.proxy.requests import capabilities

TEXT = """
/v1/chat/completions /v1/completions /v1/responses /v1/messages /v1/audio/transcriptions /generate /api/chat
/api/generate
""".split()  # noqa: SIM905
FINE = """
/v1/embeddings /v1/classify /v1/rerank /rerank /v1/score /encode /classify /tokenize /v1/messages/count_tokens
""".split()  # noqa: SIM905


def test_the_flags_tell_what_a_model_makes():
    assert capabilities.speaks_text(("--context-length", "32768"))
    assert not capabilities.speaks_text(("--context-length", "32768", "--is-embedding"))


@pytest.mark.parametrize("label", TEXT)
def test_a_request_for_text_is_refused_with_what_to_ask_instead(label):
    refusal = capabilities.refusal(label, "bge")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "not_a_text_model")
    assert refusal.message == "bge makes embeddings: POST /v1/embeddings"


def test_a_request_for_embeddings_is_refused_as_is_one_for_text():
    refusal = capabilities.embedding_refusal("/v1/embeddings", "qwen")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "not_an_embedding_model")
    for label in ("/v1/rerank", "/rerank", "/v1/score", *TEXT):
        assert capabilities.embedding_refusal(label, "qwen") is None


@pytest.mark.parametrize("label", FINE)
def test_what_makes_no_text_may_pass(label):
    assert capabilities.refusal(label, "bge") is None
