"""The routes that answer with a model: chat, completions, SGLang's own /generate, embeddings, tokens."""

from collections.abc import Iterator
from itertools import islice
from time import time
from typing import Any
from uuid import uuid4

import trio

from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.http.server import Exchange

from . import text
from .batch import Job
from .engine import Engine
from .replies import Asked, ChatForm, CompletionForm, Form, GenerateForm, event
from .routes import Route, bad_request, fields

# Seconds of SGLang's own; Flags.seconds brings it to this simulator's pace.
DISCONNECT_POLL = 4.0  # how late it notices that the client of an answer in one piece is gone
_STREAM_INTERVAL = 0.01  # a stream's parts come no faster
_WHOLE_INTERVAL = 0.1


class CutShort(MuxdError):
    """The connection of this answer is to end uncleanly."""


def model_routes(engine: Engine) -> dict[str, Route]:
    models = _Models(engine)
    post, put = ("POST",), ("POST", "PUT")
    return {
        "/v1/chat/completions": Route(models.chat, post),
        "/v1/completions": Route(models.completion, post),
        "/generate": Route(models.generate, put),
        "/v1/embeddings": Route(models.embeddings, post),
        "/v1/tokenize": Route(models.tokenize, post),
        "/tokenize": Route(models.tokenize, post),
        "/v1/detokenize": Route(models.detokenize, post),
        "/detokenize": Route(models.detokenize, post),
    }


class _Models:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._faults = engine.flags.faults

    async def chat(self, request: Request, exchange: Exchange) -> None:
        body = fields(request, needs=("messages",))
        if not isinstance(body["messages"], list) or not body["messages"]:
            raise bad_request("Messages cannot be empty.")
        await self._answer(ChatForm(), self._asked(body, _dialogue(body["messages"]), 0), exchange)

    async def completion(self, request: Request, exchange: Exchange) -> None:
        body = fields(request, needs=("prompt",))
        await self._answer(CompletionForm(), self._asked(body, str(body["prompt"]), 16), exchange)

    async def generate(self, request: Request, exchange: Exchange) -> None:
        body = fields(request)
        if not isinstance(body.get("text"), str):
            raise bad_request("Either text, input_ids or input_embeds should be provided.")
        sampling = dict(body.get("sampling_params") or {})
        sampling["max_tokens"] = sampling.get("max_new_tokens", 128)
        await self._answer(GenerateForm(), self._asked({**body, **sampling}, body["text"], 128), exchange)

    async def embeddings(self, request: Request, exchange: Exchange) -> None:
        body = fields(request, needs=("input",))
        if not self._engine.flags.is_embedding:
            raise bad_request(
                "This model does not appear to be an embedding model by default. "
                "Please add `--is-embedding` when launching the server or try another model."
            )
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        async with self._engine.request(uuid4().hex) as weights:
            vectors = [text.vector(weights, str(one)) for one in inputs]
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
        count = sum(len(text.token_ids(str(one))) for one in inputs)
        usage = {"prompt_tokens": count, "total_tokens": count}
        model = body.get("model", "default")
        await exchange.send_json(200, {"object": "list", "model": model, "data": data, "usage": usage})

    async def tokenize(self, request: Request, exchange: Exchange) -> None:
        ids = text.token_ids(str(fields(request, needs=("prompt",))["prompt"]))
        longest = self._engine.flags.context_length
        await exchange.send_json(200, {"tokens": ids, "count": len(ids), "max_model_len": longest})

    async def detokenize(self, request: Request, exchange: Exchange) -> None:
        ids = fields(request, needs=("tokens",))["tokens"]
        await exchange.send_json(200, {"text": " ".join(f"<{one}>" for one in ids)})

    def _asked(self, body: dict[str, Any], prompt: str, otherwise: int) -> Asked:
        """What the body asks for; `otherwise` is how many tokens where it does not say, 0 as many as come."""
        longest = self._engine.flags.context_length
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        limit = (otherwise or longest) if limit is None else limit
        if not isinstance(limit, int) or limit < 0:
            raise bad_request(f"max_completion_tokens must be at least 0, got {limit}.")
        if limit > longest:
            raise bad_request(
                f"max_completion_tokens is too large: {limit}.This model supports at most {longest} completion tokens."
            )
        options = body.get("stream_options") or {}
        warm = body.get("temperature", 1.0) != 0
        return Asked(
            rid=str(body.get("rid") or uuid4().hex),
            model=body.get("model", "default"),
            created=int(time()),
            prompt=prompt,
            prompt_tokens=len(text.token_ids(prompt)),
            limit=limit,
            endless=bool(body.get("ignore_eos")),
            salt=str(body.get("seed", uuid4().hex)) if warm else "",
            stream=bool(body.get("stream")),
            usage=bool(options.get("include_usage")),
        )

    async def _answer(self, form: Form, asked: Asked, exchange: Exchange) -> None:
        """Answer, or stop when the client is gone: at once when streaming, else as late as SGLang notices."""
        patience = 0.0 if asked.stream else self._engine.flags.seconds(DISCONNECT_POLL)
        whole = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, exchange, patience, nursery.cancel_scope)
            whole = await self._generate(form, asked, exchange)
            nursery.cancel_scope.cancel()
        if not whole:
            raise CutShort("fault: close-early")

    async def _generate(self, form: Form, asked: Asked, exchange: Exchange) -> bool:
        """False when the connection is to be cut."""
        async with self._engine.request(asked.rid) as weights:
            natural = text.natural_length(weights, asked.prompt, asked.salt)
            length = asked.limit if asked.endless else min(asked.limit, natural)
            job = Job(asked.rid, length, "length" if length == asked.limit else "stop")
            words = text.tokens(weights, asked.prompt, asked.salt)
            async with self._engine.job(job):
                return await (self._stream if asked.stream else self._whole)(form, asked, job, words, exchange)

    async def _whole(self, form: Form, asked: Asked, job: Job, words: Iterator[str], exchange: Exchange) -> bool:
        cut = self._faults.number("close-early")
        while await self._engine.batch.step(job, _WHOLE_INTERVAL):
            if cut is not None and job.made >= cut:
                await exchange.start_stream("application/json")
                await exchange.write(b'{"id":')
                return False
        await exchange.send_json(200, form.whole(asked, "".join(islice(words, job.made)), job))
        return True

    async def _stream(self, form: Form, asked: Asked, job: Job, words: Iterator[str], exchange: Exchange) -> bool:
        cut = self._faults.number("close-early")
        await exchange.start_stream("text/event-stream; charset=utf-8")
        for first in form.opening(asked):
            await exchange.write(event(first))
        parts = 0
        while new := await self._engine.batch.step(job, _STREAM_INTERVAL):
            parts += 1
            if parts == 3 and self._faults.has("garbage-chunk"):
                await exchange.write(b"\x00\xff\xfe this is no event\n")
            await exchange.write(event(form.part(asked, "".join(islice(words, new)), job)))
            if cut is not None and job.made >= cut:
                return False
        for last in form.closing(asked, job):
            await exchange.write(event(last))
        await exchange.write(b"data: [DONE]\n\n")
        return True


async def _leave(exchange: Exchange, patience: float, scope: trio.CancelScope) -> None:
    await exchange.disconnected()
    await trio.sleep(patience)
    scope.cancel()


def _dialogue(messages: list[Any]) -> str:
    """The messages as one prompt."""
    return "\n".join(f"{m.get('role')}: {_said(m.get('content'))}" for m in messages if isinstance(m, dict))


def _said(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
