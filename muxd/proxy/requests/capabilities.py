"""Refusals of what a model's server does not answer, by what muxd told of it: before anybody gives way to the model."""

from muxd.config.model_capabilities import ModelCapabilities
from muxd.proxy.answers import Refusal

EMBEDDINGS, TEXT = "embeddings", "text"


def allowed(told: ModelCapabilities, makes: str) -> frozenset[str] | None:
    """Return the routes that the server of a model answers which makes that ("": not known); None for any route."""
    if told.answers is None:
        return None
    by_engine = told.answers.routes.get(makes, told.answers.every)
    return by_engine if told.routes is None else by_engine & told.routes


def refusal(told: ModelCapabilities, makes: str, route: str, model: str) -> Refusal:
    """Return the refusal of a request on a route that is not among those allowed."""
    assert told.answers is not None
    if told.routes is not None and route not in told.routes:
        known = ", ".join(sorted(told.routes))
        return Refusal(404, "route_not_found", f"{model} has no {route}, only {known}", param="model")
    if route not in told.answers.every:
        message = f"{model} has no {route}: its engine, {told.engine}, does not answer it"
        return Refusal(404, "route_not_found", message, param="model")
    if makes == EMBEDDINGS:
        return Refusal(400, "not_a_text_model", f"{model} makes embeddings: POST /v1/embeddings", param="model")
    hint = " or ".join(filter(None, ("ask another model,", told.answers.hints.get(EMBEDDINGS))))
    message = f"{model} generates text, its server said, and makes no embeddings: {hint}"
    return Refusal(400, "not_an_embedding_model", message.rstrip(","), param="model")


def no_adapters(told: ModelCapabilities, asked: str, model: str) -> Refusal:
    """Return the refusal of `asked`, the name of `model` and of a LoRA adapter, where the model takes no adapters."""
    hint = told.answers.hints.get("adapters") if told.answers is not None else None
    message = f"there is no model {asked[:100]!r}; did you mean {model}? It takes no adapters"
    return Refusal(404, "model_not_found", f"{message}, without {hint}" if hint else message, param="model")
