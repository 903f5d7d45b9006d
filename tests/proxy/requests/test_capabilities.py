"""A model is not asked for what its server does not answer, or would die of."""

import pytest

from muxd.config.model_capabilities import EngineRoutes, ModelCapabilities
from muxd.proxy.answers import Refusal
from muxd.proxy.requests import capabilities

ROUTES = EngineRoutes(
    {"text": frozenset({"/v1/completions", "/tokenize"}), "embeddings": frozenset({"/v1/embeddings", "/tokenize"})},
    {"embeddings": "start it with --embed"},
)
TOLD = ModelCapabilities("other", answers=ROUTES)


def refused(makes: str, route: str) -> Refusal | None:
    """Return the refusal of a request on that route for the model `m`; None where it may pass."""
    allowed = capabilities.allowed(TOLD, makes)
    assert allowed is not None
    return None if route in allowed else capabilities.refusal(TOLD, makes, route, "m")


def test_a_request_for_text_is_refused_with_what_to_ask_instead():
    refusal = refused("embeddings", "/v1/completions")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "not_a_text_model")
    assert refusal.message == "m makes embeddings: POST /v1/embeddings"


def test_a_request_for_embeddings_is_refused_with_how_its_engine_makes_them():
    refusal = refused("text", "/v1/embeddings")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (400, "not_an_embedding_model")
    assert refusal.message.endswith("and makes no embeddings: ask another model, or start it with --embed")


@pytest.mark.parametrize("makes", ["", "text", "embeddings"])
def test_a_route_that_its_engine_has_not_is_refused_before_anybody_gives_way(makes):
    refusal = refused(makes, "/v1/audio/transcriptions")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (404, "route_not_found")
    assert refusal.message == "m has no /v1/audio/transcriptions: its engine, other, does not answer it"
    assert refused(makes, "/tokenize") is None


def test_a_model_of_which_nobody_knows_what_it_makes_is_asked_for_either():
    assert refused("", "/v1/completions") is None
    assert refused("", "/v1/embeddings") is None


def test_where_muxd_has_told_nothing_any_route_may_pass():
    assert capabilities.allowed(ModelCapabilities(), "") is None
