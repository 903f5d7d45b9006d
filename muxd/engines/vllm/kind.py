"""What vLLM states of itself.  The routes are those of vLLM 0.32.0 that clients may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxd.config.flags import flag_of, number_in
from muxd.config.model_schema import Model
from muxd.engines.capabilities import SLEEP_LEVELS, Capabilities
from muxd.engines.kind import EngineKind

from .key_checks import findings

if TYPE_CHECKING:
    from muxd.engines.engine import Engine

#: The flag that says what a model is run for, and its value for a model that makes vectors.
RUNNER = ("--runner",)
POOLING = "pooling"
MAX_MODEL_LEN = ("--max-model-len",)
KV_CACHE_BYTES = "--kv-cache-memory-bytes"
GPU_SHARE = "--gpu-memory-utilization"

#: The beginning of the message of vLLM's EngineDeadError (vllm/v1/engine/exceptions.py, 0.6.5 to 0.33.0).  Until it is
#: gone, an API server whose engine core has died answers 500 with it, or puts it into the first event of a stream.
ENGINE_DEAD = "EngineCore encountered an issue"

TEXT_ROUTES = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/audio/transcriptions",
    )
)

EMBEDDING_ROUTES = frozenset(("/v1/embeddings", "/v1/score", "/v1/rerank", "/classify"))

_ANY = frozenset(
    (
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/responses/{id}",
        "/tokenize",
        "/detokenize",
        "/metrics",
        "/ping",
    )
)


def makes(model: Model) -> str:
    """Return "embeddings" for a model that was started so, else ""."""
    return "embeddings" if flag_of(model.args)(RUNNER) == POOLING else ""


def context_length(model: Model) -> int | None:
    """Return the longest text in tokens that the flags allow; None where they do not say."""
    return number_in(model.args, MAX_MODEL_LEN)


def takes_adapters(_: Model) -> bool:
    """Return False: NAME:ADAPTER is SGLang's way to ask for an adapter; vLLM's adapters are models of their own."""
    return False


def _make() -> Engine:
    from .engine import VLLM  # imported by who runs workers only

    return VLLM()


VLLM_KIND = EngineKind(
    name="vllm",
    capabilities=Capabilities(
        sleep_levels=SLEEP_LEVELS,
        routes={"text": TEXT_ROUTES | _ANY, "embeddings": EMBEDDING_ROUTES | _ANY},
        hints={"embeddings": f"start it with {RUNNER[0]} {POOLING}"},
        last_words=ENGINE_DEAD,
        memory_flags=(KV_CACHE_BYTES, GPU_SHARE),
    ),
    make=_make,
    makes=makes,
    context_length=context_length,
    takes_adapters=takes_adapters,
    certain_need=lambda model, environ: 0,  # vLLM offloads by flags and variables of which not all are known
    findings=findings,
)
