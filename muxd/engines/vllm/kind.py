"""What vLLM states of itself.  The routes are those of vLLM 0.32.0 that clients may use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from muxd.config.engine_options import VLLMOptions
from muxd.config.flags import flag_of, number_in
from muxd.config.model_schema import Model
from muxd.engines.capabilities import SLEEP_LEVELS, Capabilities
from muxd.engines.certain import certain_need
from muxd.engines.kind import EngineKind, InstallationChecks

from .installation import (
    GPU_SHARE,
    KV_CACHE_BYTES,
    PACKAGE,
    kv_cache_bytes_in,
    lacking_for,
    odd_args,
    paths_read,
    share_in,
    unfit,
)
from .key_checks import findings

if TYPE_CHECKING:
    from muxd.engines.engine import Engine

#: The flag that says what a model is run for, and its value for a model that makes vectors.
RUNNER = ("--runner",)
POOLING = "pooling"
MAX_MODEL_LEN = ("--max-model-len",)

#: Arguments with which fewer bytes than the files have may go to the GPUs of this host.
SPARES = re.compile(
    r"--(quant|cpu-o|offload|load-f|model-loader|hf-o|conf|nno|runner|convert|mm-e|language-m|model-c|ignore-p|engram"
    r"|enable-ep-w|additional)|-q\b"
)

#: The beginning of the message of EngineDeadError in vLLM 0.32.0 (vllm/v1/engine/exceptions.py).  Until it is
#: gone, an API server whose engine core has died answers 500 with it, or puts it into the first event of a stream.
ENGINE_DEAD = "EngineCore encountered an issue"

TEXT_ROUTES = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/systemone",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
    )
)

EMBEDDING_ROUTES = frozenset(("/v1/embeddings", "/v1/score", "/v1/rerank", "/v2/rerank", "/classify", "/pooling"))

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


def own_args(model: Model) -> tuple[str, ...]:
    """Return the flags that the user's keys say: the engine's options, and `args`."""
    options = model.engine_options
    said = options.flags if isinstance(options, VLLMOptions) else {}
    return (*(word for pair in said.items() for word in pair), *model.args)


def makes(model: Model) -> str:
    """Return "embeddings" for a model that was started so, else ""."""
    return "embeddings" if flag_of(model.args)(RUNNER) == POOLING else ""


def context_length(model: Model) -> int | None:
    """Return the longest text in tokens that the flags allow; None where they do not say."""
    return number_in(own_args(model), MAX_MODEL_LEN)


def takes_adapters(_: Model) -> bool:
    """Return False: NAME:ADAPTER is SGLang's way to ask for an adapter; vLLM's adapters are models of their own."""
    return False


def demanded(model: Model, total: int) -> tuple[str, int]:
    """Return the flag, and the bytes of a GPU with `total`, that the model's server may have by its own args."""
    args = own_args(model)
    by_flag = {GPU_SHARE[0]: int((share_in(args) or 0) * total), KV_CACHE_BYTES: kv_cache_bytes_in(args)}
    return max(by_flag.items(), key=itemgetter(1))


def _flags(model: Model) -> Sequence[str]:
    from .engine import server_flags  # imported by who checks flags only

    return [*server_flags(model, model.port or 1, lacking_for(model)), *own_args(model)]


def _make() -> Engine:
    from .engine import VLLM  # imported by who runs workers only

    return VLLM()


VLLM_KIND = EngineKind(
    name="vllm",
    capabilities=Capabilities(
        sleep_levels=SLEEP_LEVELS,
        routes={"text": TEXT_ROUTES | _ANY, "embeddings": EMBEDDING_ROUTES | _ANY},
        hints={"embeddings": f"start it with {RUNNER[0]} {POOLING}"},
        fatal_error=ENGINE_DEAD,
        by_first_name=True,
        memory_flags=(KV_CACHE_BYTES, *GPU_SHARE),
    ),
    make=_make,
    makes=makes,
    context_length=context_length,
    takes_adapters=takes_adapters,
    certain_need=partial(certain_need, SPARES),
    demanded=demanded,
    own_args=own_args,
    caches={"VLLM_CACHE_ROOT": "vllm"},
    findings=findings,
    installation=InstallationChecks(PACKAGE, odd_args, paths_read, _flags, unfit),
)
