"""What a model can be asked for, as far as its engine's flags tell."""

from muxd.proxy.answers import Refusal

#: What SGLang makes text for, and streams on demand.
#: One that was started with --is-embedding ends of it, seen with 0.5.23: its scheduler raises "no attribute
#: 'embeddings'".  The other way round nothing happens: a model of text refuses an embedding with 400 before its
#: scheduler sees it, and so does a model of embeddings with what it is asked to rank or decide.
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


def speaks_text(args: tuple[str, ...]) -> bool:
    """Whether a model with these flags answers with text; a `--config` file among them is not read."""
    return "--is-embedding" not in args


def context_length(args: tuple[str, ...]) -> int | None:
    """The longest text that a model with these flags takes, in tokens, where they say; as muxd hands flags over."""
    told = [arg.removeprefix("--context-length=") for arg in args if arg.startswith("--context-length=")]
    return int(told[-1]) if told and told[-1].isascii() and told[-1].isdigit() and len(told[-1]) < 10 else None


def refusal(label: str, model: str) -> Refusal | None:
    """What a request on the route of that label gets from a model that does not speak text; None where it may pass."""
    if label not in TEXT_ROUTES:
        return None
    return Refusal(400, "not_a_text_model", f"{model} makes embeddings: POST /v1/embeddings", param="model")
