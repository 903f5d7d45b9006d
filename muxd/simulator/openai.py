"""The routes that answer with text: OpenAI's, Anthropic's, Ollama's and SGLang's own."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio
from msgspec.structs import replace

from muxd.errors import MuxdError
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter

from . import adapters
from .messages import MessagesForm, count_tokens, read_messages
from .ollama import OllamaChatForm, OllamaGenerateForm, nothing_to_say, read_ollama_chat, read_ollama_generate
from .replies import ChatForm, CompletionForm, Event, GenerateForm, ReplyForm
from .responses import ResponsesForm, read_response
from .routes import Answer, EngineRefusal, EngineRoute, bad_request, fields, of_kind
from .saying import Choice, choices
from .simulated_engine import SimulatedEngine
from .text_request import TextRequest, read, read_chat, read_completion
from .transcriptions import TranscriptionForm, read_transcription

# SGLang's own wait in seconds; Flags.seconds brings it to this simulator's pace.
DISCONNECT_POLL = 4.0  # until SGLang notices that the client of an answer in one piece is gone

# Seconds between two steps of one answer, at least.
_STREAM_INTERVAL = 0.01
_WHOLE_INTERVAL = 0.1

Read = Callable[[dict[str, Any], int], TextRequest]


class CutShort(MuxdError):
    """Raised to make the connection of an answer end uncleanly."""


def text_routes(engine: SimulatedEngine) -> dict[str, EngineRoute]:
    """Return these routes by path."""
    texts, post = _Texts(engine), ("POST",)
    return {
        "/v1/chat/completions": EngineRoute(texts.answer(read_chat, ChatForm, ("messages",), by_adapter=True), post),
        "/v1/completions": EngineRoute(
            texts.answer(read_completion, CompletionForm, ("prompt",), by_adapter=True), post
        ),
        "/v1/responses": EngineRoute(texts.answer(read_response, ResponsesForm, needs=("input",)), post),
        "/v1/messages": EngineRoute(texts.messages, post),
        "/v1/messages/count_tokens": EngineRoute(texts.count_tokens, post),
        "/generate": EngineRoute(texts.generate, ("POST", "PUT")),
        "/api/chat": EngineRoute(
            texts.answer(read_ollama_chat, texts.as_served(OllamaChatForm), needs=("messages",)), post
        ),
        "/api/generate": EngineRoute(texts.ollama_generate, post),
        "/v1/audio/transcriptions": EngineRoute(texts.transcribe, post),
    }


class _Texts:
    """The handlers of these routes."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._faults = engine.flags.faults

    def answer(
        self,
        read: Read,
        form: Callable[[TextRequest], ReplyForm],
        needs: tuple[str, ...] = (),
        *,
        by_adapter: bool = False,
    ) -> Answer:
        """Return a handler that reads a request with `read` and answers in the form that `form` makes.

        `needs`: the fields that the body must have.  `by_adapter`: the body may name a LoRA adapter.
        """

        async def answer(request: Request, exchange: ResponseWriter) -> None:
            body = fields(request, needs=needs)
            text_request = read(body, self._engine.flags.context_length)
            if by_adapter and (problem := adapters.problem(self._engine, body)) is not None:
                raise bad_request(problem)
            await self._answer(form(text_request), exchange)

        return answer

    def as_served(self, form: Callable[[TextRequest, str], ReplyForm]) -> Callable[[TextRequest], ReplyForm]:
        """Return a maker of forms that name the model as it was served, not as the client wrote it."""
        return lambda text_request: form(text_request, self._engine.served_model_name)

    async def messages(self, request: Request, exchange: ResponseWriter) -> None:
        text_request = read_messages(fields(request), self._engine.flags.context_length)
        form, problem = MessagesForm(text_request), adapters.problem(self._engine, {"model": text_request.model})
        if problem is None:
            await self._answer(form, exchange)
        elif text_request.stream:
            await exchange.send_body(form.content_type, b"".join(map(form.encode, form.refused(problem))))
        else:
            raise form.refusal(problem)

    async def generate(self, request: Request, exchange: ResponseWriter) -> None:
        body = fields(request)
        text_request = _read_generate(body, self._engine.flags.context_length)
        if (problem := adapters.problem(self._engine, body, by_model=False)) is not None:
            raise EngineRefusal(400, {"error": {"message": problem}})
        await self._answer(GenerateForm(text_request), exchange)

    async def ollama_generate(self, request: Request, exchange: ResponseWriter) -> None:
        body = fields(request, needs=("prompt",))
        if str(body["prompt"]).strip() or body.get("system"):
            text_request = read_ollama_generate(body, self._engine.flags.context_length)
            await self._answer(self.as_served(OllamaGenerateForm)(text_request), exchange)
            return
        answer = nothing_to_say(self._engine.served_model_name)
        if body.get("stream", True):
            await exchange.send_body(OllamaGenerateForm.content_type, msgspec.json.encode(answer) + b"\n")
        else:
            await exchange.send_json(200, answer)

    async def transcribe(self, request: Request, exchange: ResponseWriter) -> None:
        form = TranscriptionForm(*read_transcription(request, self._engine.flags.context_length))
        await self._answer(form, exchange)

    async def count_tokens(self, request: Request, exchange: ResponseWriter) -> None:
        await exchange.send_json(200, count_tokens(fields(request)))

    async def _answer(self, form: ReplyForm, exchange: ResponseWriter) -> None:
        """Answer, or stop when the client is gone: at once when streaming, else as late as SGLang notices.

        Raise CutShort where the fault close-early cuts the answer.
        """
        patience = 0.0 if form.text_request.stream else self._engine.flags.seconds(DISCONNECT_POLL)
        is_complete = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, exchange, patience, nursery.cancel_scope)
            is_complete = await self._generate(form, exchange)
            nursery.cancel_scope.cancel()
        if not is_complete:
            raise CutShort("fault: close-early")

    async def _generate(self, form: ReplyForm, exchange: ResponseWriter) -> bool:
        """Send the answer; return False when the connection is to be cut."""
        reply = (_Stream if form.text_request.stream else _Whole)(form, exchange, self._engine)
        await reply.begin()
        async with self._engine.request(form.text_request.rid, generates=True) as weights:
            return await reply.run(choices(form.text_request, weights))


class _Whole:
    """An answer in one piece."""

    def __init__(self, form: ReplyForm, exchange: ResponseWriter, engine: SimulatedEngine) -> None:
        self._form = form
        self._exchange = exchange
        self._engine = engine
        self._cut_after = engine.flags.faults.number("close-early")
        self._is_cut = False

    async def begin(self) -> None:
        """Send nothing: an answer in one piece has no head of its own."""

    async def run(self, answers: Sequence[Choice]) -> bool:
        async with trio.open_nursery() as nursery:
            for choice in answers:
                nursery.start_soon(self._say, choice, nursery.cancel_scope)
        if self._is_cut:
            await self._exchange.start_stream("application/json")
            await self._exchange.write(b'{"id":')
            return False
        body = self._form.complete(answers)
        if isinstance(body, str):
            await self._exchange.send_body("text/plain; charset=utf-8", body.encode())
        else:
            await self._exchange.send_json(200, body)
        return True

    async def _say(self, choice: Choice, scope: trio.CancelScope) -> None:
        async with self._engine.job(choice.job):
            while await self._engine.batch.step(choice.job, _WHOLE_INTERVAL):
                if self._cut_after is not None and choice.made >= self._cut_after:
                    self._is_cut = True
                    scope.cancel()


class _Stream:
    """An answer as a stream; the events of several choices are sent as they come."""

    def __init__(self, form: ReplyForm, exchange: ResponseWriter, engine: SimulatedEngine) -> None:
        self._form = form
        self._exchange = exchange
        self._engine = engine
        self._cut_after = engine.flags.faults.number("close-early")
        self._is_cut = False
        self._turn = trio.Lock()

    async def begin(self) -> None:
        """Send the stream's head before the engine gets the request, where the form wants that."""
        if self._form.head_at_once:
            await self._write(*self._form.opening())

    async def run(self, answers: Sequence[Choice]) -> bool:
        async with trio.open_nursery() as nursery:
            for choice in answers:
                nursery.start_soon(self._say, choice, nursery.cancel_scope)
        if self._is_cut:
            return False
        await self._write(*self._form.closing(answers), end=self._form.end)
        return True

    async def _say(self, choice: Choice, scope: trio.CancelScope) -> None:
        parts = 0
        async with self._engine.job(choice.job):
            while new := await self._engine.batch.step(choice.job, _STREAM_INTERVAL):
                parts += 1
                if parts == 1:
                    await self._write(*self._form.first(choice))
                if parts == 3 and self._engine.flags.faults.has("garbage-chunk"):
                    await self._write(end=b"\x00\xff\xfe this is no event\n")
                await self._write(*self._form.part(choice, choice.made - new, choice.made))
                if self._cut_after is not None and choice.made >= self._cut_after:
                    self._is_cut = True
                    scope.cancel()

        if not parts:
            await self._write(*self._form.first(choice))

    async def _write(self, *events: Event, end: bytes = b"") -> None:
        async with self._turn:
            if not self._exchange.started:
                await self._exchange.start_stream(self._form.content_type)
            await self._exchange.write(b"".join(map(self._form.encode, events)) + end)


async def _leave(exchange: ResponseWriter, patience: float, scope: trio.CancelScope) -> None:
    await exchange.disconnected()
    await trio.sleep(patience)
    scope.cancel()


def _read_generate(body: dict[str, Any], longest: int) -> TextRequest:
    prompt = body.get("text")
    if ids := of_kind(body, "input_ids", list):
        prompt = " ".join(map(str, ids))
    if not isinstance(prompt, str):
        raise bad_request("Either text, input_ids or input_embeds should be provided.")
    sampling = dict(body.get("sampling_params") or {})
    sampling["max_tokens"] = sampling.get("max_new_tokens", 128)
    text_request = read({**body, **sampling, "n": 1}, (prompt,), longest, otherwise=128)
    if not body.get("return_logprob"):
        return text_request
    return replace(text_request, logprobs=of_kind(body, "top_logprobs_num", int) or 0)
