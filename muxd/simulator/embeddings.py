"""The routes that turn text into numbers: embeddings, rerank, classify, score, tokenize and detokenize."""

from math import exp
from typing import Any
from uuid import uuid4

from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter

from . import adapters, pretend_text
from .routes import EngineRefusal, EngineRoute, bad_request, fields, of_kind
from .simulated_engine import SimulatedEngine

_NO_EMBEDDINGS = (
    "This model does not appear to be an embedding model by default. "
    "Please add `--is-embedding` when launching the server or try another model."
)
_NO_INPUT = "At least one of text, input_ids, image, video, or audio should be provided"


def embedding_routes(engine: SimulatedEngine) -> dict[str, EngineRoute]:
    """Return these routes by path."""
    numbers, post = _Numbers(engine), ("POST",)
    return {
        "/v1/embeddings": EngineRoute(numbers.embeddings, post),
        "/v1/rerank": EngineRoute(numbers.rerank, ("POST", "PUT")),
        "/v1/classify": EngineRoute(numbers.classify, post),
        "/v1/score": EngineRoute(numbers.score, post),
        "/encode": EngineRoute(numbers.encode, ("POST", "PUT")),
        "/classify": EngineRoute(numbers.encode, ("POST", "PUT")),
        "/v1/tokenize": EngineRoute(numbers.tokenize, post),
        "/tokenize": EngineRoute(numbers.tokenize, post),
        "/v1/detokenize": EngineRoute(numbers.detokenize, post),
        "/detokenize": EngineRoute(numbers.detokenize, post),
    }


class _Numbers:
    """The handlers of these routes."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine

    async def embeddings(self, request: Request, exchange: ResponseWriter) -> None:
        body = self._embedding_fields(request, "input")
        if (problem := adapters.problem(self._engine, body)) is not None:
            raise bad_request(problem)
        inputs = _several(body["input"])
        vectors = [pretend_text.vector(await self._weights(), one) for one in inputs]
        data = [{"embedding": v, "index": i, "object": "embedding"} for i, v in enumerate(vectors)]
        # SGLang names its model here, whatever the client called it.
        model = self._engine.model_path
        await exchange.send_json(200, {"data": data, "model": model, "object": "list", "usage": _usage(inputs)})

    async def rerank(self, request: Request, exchange: ResponseWriter) -> None:
        body = self._embedding_fields(request, "query", "documents")
        weights, documents = await self._weights(), _several(body["documents"])
        scores = [pretend_text.vector(weights, f"{body['query']}\n{one}")[0] for one in documents]
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        ranked = [{"score": scores[i], "document": documents[i], "index": i, "meta_info": _meta()} for i in order]
        await exchange.send_json(200, ranked)

    async def classify(self, request: Request, exchange: ResponseWriter) -> None:
        body = self._embedding_fields(request, "input")
        await self._weights()
        inputs = _several(body["input"])
        data = [{"index": i, "label": "Default", "probs": [1.0], "num_classes": 1} for i in range(len(inputs))]
        head = {"id": f"classify-{uuid4().hex}", "object": "list", "created": 0, "model": body.get("model", "default")}
        await exchange.send_json(200, {**head, "data": data, "usage": _usage(inputs)})

    async def encode(self, request: Request, exchange: ResponseWriter) -> None:
        """Answer SGLang's own /encode, and /classify likewise: an object for one text, a list for several."""
        body = fields(request)
        text = body.get("text")
        if ids := of_kind(body, "input_ids", list):
            text = " ".join(map(str, ids))
        if text is None:
            raise EngineRefusal(400, {"error": {"message": _NO_INPUT}})
        if not self._engine.flags.is_embedding:
            raise EngineRefusal(400, {"error": {"message": _NO_EMBEDDINGS}})
        if (problem := adapters.problem(self._engine, body, by_model=False)) is not None:
            raise EngineRefusal(400, {"error": {"message": problem}})
        vectors = [pretend_text.vector(await self._weights(), one) for one in _several(text)]
        answers = [{"embedding": vector, "meta_info": _meta()} for vector in vectors]
        await exchange.send_json(200, answers if isinstance(text, list) else answers[0])

    async def score(self, request: Request, exchange: ResponseWriter) -> None:
        """Answer how likely each of the labels is to come after the query and each item."""
        body = fields(request, needs=("query", "items"))
        weights, items = await self._weights(), _several(body["items"])
        labels = [str(label) for label in body.get("label_token_ids") or [0]]
        rows = [
            [pretend_text.likelihoods(weights, f"{body['query']}{item}{n}", 0)[0][1] for n in labels] for item in items
        ]
        scores = [_softmax(row) if body.get("apply_softmax") else [exp(one) for one in row] for row in rows]
        nothing = {"pooled_hidden_states": None, "token_logprobs": None}
        model = body.get("model", "default")
        usage = _usage([f"{body['query']} {item}" for item in items])
        await exchange.send_json(
            200, {"scores": scores, **nothing, "model": model, "usage": usage, "object": "scoring"}
        )

    async def tokenize(self, request: Request, exchange: ResponseWriter) -> None:
        ids = pretend_text.token_ids(str(fields(request, needs=("prompt",))["prompt"]))
        longest = self._engine.flags.context_length
        await exchange.send_json(200, {"tokens": ids, "count": len(ids), "max_model_len": longest})

    async def detokenize(self, request: Request, exchange: ResponseWriter) -> None:
        ids = fields(request, needs=("tokens",))["tokens"]
        await exchange.send_json(200, {"text": " ".join(f"<{one}>" for one in ids)})

    def _embedding_fields(self, request: Request, *needs: str) -> dict[str, Any]:
        body = fields(request, needs=needs)
        if not self._engine.flags.is_embedding:
            raise bad_request(_NO_EMBEDDINGS)
        return body

    async def _weights(self) -> str:
        async with self._engine.request(uuid4().hex) as weights:
            return weights


def _several(texts: Any) -> list[str]:
    return [str(text) for text in (texts if isinstance(texts, list) else [texts])]


def _softmax(row: list[float]) -> list[float]:
    total = sum(exp(one) for one in row)
    return [exp(one) / total for one in row]


def _usage(inputs: list[str]) -> dict[str, Any]:
    count = sum(len(pretend_text.token_ids(one)) for one in inputs)
    return {
        "prompt_tokens": count,
        "total_tokens": count,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def _meta() -> dict[str, Any]:
    return {
        "id": uuid4().hex,
        "finish_reason": {"type": "length", "length": 0},
        "prompt_tokens": 1,
        "weight_version": "default",
        "num_retractions": 0,
        "e2e_latency": 0.0,
        "response_sent_to_client_ts": 0.0,
    }
