"""What SGLang states of itself.  The routes are those of SGLang 0.5.23 that clients may use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from muxd.config.flags import FRACTION, flag_of, number_in
from muxd.config.model_schema import Model
from muxd.engines.capabilities import SLEEP_LEVELS, Capabilities
from muxd.engines.certain import certain_need
from muxd.engines.kind import EngineKind, InstallationChecks

from .checks import findings, odd_args, paths_read, share_in, unfit
from .interpreters import PACKAGE

if TYPE_CHECKING:
    from muxd.engines.engine import Engine

#: The flag of a model that makes embeddings.
EMBEDDING = ("--is-embedding",)
CONTEXT_LENGTH = ("--context-length",)

#: Arguments with which fewer bytes than the files have may go to the GPUs of this host.
SPARES = re.compile(
    r"--(quant|torchao|modelopt|rl-quant|cpu-o|offload|kt-|load-f|model-loader|json-m|nno|devic|encoder|language-o|conf)"
)

#: Routes on which SGLang generates text.  A server that was started with --is-embedding crashes on them, seen with
#: 0.5.23: its scheduler raises "no attribute 'embeddings'".  The other routes are safe: a model of text refuses a
#: request for an embedding with 400 before its scheduler sees it, and a model of embeddings refuses requests to rank or
#: decide in the same way.
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
EMBEDDING_ROUTES = frozenset(("/v1/embeddings", "/encode"))

_ANY = frozenset(
    (
        "/v1/messages/count_tokens",
        "/v1/classify",
        "/v1/score",
        "/v1/rerank",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/systemone",
        "/v1/decisions",
        "/tokenize",
        "/detokenize",
        "/classify",
        "/model_info",
        "/get_model_info",
        "/v1/models",
        "/v1/loads",
        "/v1/responses/{id}",
        "/metrics",
        "/ready",
        "/ping",
    )
)


def makes(model: Model) -> str:
    """Return "embeddings" for a model that was started so, else "": a `--config` file among the flags is not read."""
    return "embeddings" if flag_of(model.args)(EMBEDDING) is not None else ""


def context_length(model: Model) -> int | None:
    """Return the longest text in tokens that the flags allow; None where they do not say."""
    return number_in(model.args, CONTEXT_LENGTH)


def takes_adapters(model: Model) -> bool:
    """Return whether a server with the model's flags takes LoRA adapters; SGLang refuses them without such a flag.

    What a launch script or a `--config` file says is not known.
    """
    look_up = flag_of(model.args)
    is_known = model.script is None and look_up(("--config",)) is None
    return not is_known or any(word.startswith("--") and "lora" in word for word in model.args)


def demanded(model: Model, total: int) -> tuple[str, int]:
    """Return the flag, and the bytes of a GPU with `total`, that the model's server may have by its own args."""
    return FRACTION[0], int((share_in(model.args) or 0) * total)


def _make() -> Engine:
    from .engine import SGLang  # imported by who runs workers only

    return SGLang()


def _flags(model: Model) -> Sequence[str]:
    from .engine import server_flags  # imported by who checks flags only

    return [*server_flags(model, model.port or 1), *model.args]


SGLANG = EngineKind(
    name="sglang",
    capabilities=Capabilities(
        sleep_levels=SLEEP_LEVELS,
        routes={"text": TEXT_ROUTES | _ANY, "embeddings": EMBEDDING_ROUTES | _ANY},
        hints={"embeddings": f"start it with {EMBEDDING[0]}", "adapters": "--enable-lora or --lora-paths in its args"},
        memory_flags=FRACTION,
        has_gate=True,
    ),
    make=_make,
    makes=makes,
    context_length=context_length,
    takes_adapters=takes_adapters,
    demanded=demanded,
    findings=findings,
    caches={"SGLANG_CACHE_DIR": "sglang", "SGLANG_DG_CACHE_DIR": "deep_gemm"},
    certain_need=partial(certain_need, SPARES),
    installation=InstallationChecks(PACKAGE, odd_args, paths_read, _flags, unfit),
)
