"""Capabilities of a model, as far as its engine's flags tell them."""

from muxd.proxy.answers import Refusal

#: Routes on which SGLang generates text, and streams it on demand.
#: An SGLang that was started with --is-embedding crashes on them, seen with 0.5.23: its scheduler raises "no attribute
#: 'embeddings'".  The other routes are safe: a model of text refuses a request for an embedding with 400 before its
#: scheduler sees it, and a model of embeddings refuses requests to rank or decide in the same way.
TEXT_ROUTES = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/audio/transcriptions",
        "/generate",
        "/api/chat",
        "/api/generate",
    )
)


#: Routes on which SGLang refuses every request to a model that generates text.  Such a model may well rank and score.
EMBEDDING_ROUTES = frozenset(("/v1/embeddings", "/encode", "/api/embed", "/api/embeddings"))


def speaks_text(args: tuple[str, ...]) -> bool:
    """Return whether a model with these flags generates text; a `--config` file among them is not read."""
    return "--is-embedding" not in args


def context_length(args: tuple[str, ...]) -> int | None:
    """Return the longest text in tokens that the flags, as muxd passes them on, allow; None where they do not say."""
    found = [arg.removeprefix("--context-length=") for arg in args if arg.startswith("--context-length=")]
    return int(found[-1]) if found and found[-1].isascii() and found[-1].isdigit() and len(found[-1]) < 10 else None


def refusal(label: str, model: str) -> Refusal | None:
    """Return the refusal of a request on that route for a model of embeddings; None where the request may pass."""
    if label not in TEXT_ROUTES:
        return None
    return Refusal(400, "not_a_text_model", f"{model} makes embeddings: POST /v1/embeddings", param="model")


def embedding_refusal(label: str, model: str) -> Refusal | None:
    """Return the refusal of a request on that route for a model of text; None where the request may pass."""
    if label not in EMBEDDING_ROUTES:
        return None
    problem = f"{model} generates text, its server said, and makes no embeddings"
    hint = "ask another model, or start it with --is-embedding"
    return Refusal(400, "not_an_embedding_model", f"{problem}: {hint}", param="model")
