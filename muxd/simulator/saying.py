"""One answer in the making: its tokens, how many of them are made, and why it ended.

The tokens are decided at the beginning, as nothing that happens later changes them; the answer's `Job` says how many
of them are made by now.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import uuid4

from msgspec import Struct, field

from . import pretend_text
from .batch import Job
from .schemas import fitting, spelled
from .text_request import TextRequest


class Choice(Struct, frozen=True):
    """One of the answers to a request."""

    index: int
    rid: str
    prompt: str
    weights: str
    tokens: tuple[str, ...]
    shown: int | None  # characters of the tokens' text that the client gets; None: all of them
    matched: str | int | None  # what stopped the answer: one of the client's strings, or the id of the end of text
    called: str | None  # the function that the model calls; its arguments lie between the first token and the last
    job: Job
    call_id: str = field(default_factory=lambda: f"call_{uuid4().hex[:24]}")

    @property
    def finish(self) -> str | None:
        """Return why the answer ended, in OpenAI's words; None while it goes on."""
        return "tool_calls" if self.called is not None and self.job.finish == "stop" else self.job.finish

    @property
    def stopped_by(self) -> str | int | None:
        return self.matched if self.job.finish == "stop" else None

    @property
    def made(self) -> int:
        return self.job.made

    def text(self, first: int = 0, last: int | None = None) -> str:
        """Return the text of the tokens from `first` to before `last`, as far as the client gets it."""
        said = "".join(self.tokens[first : self.made if last is None else last])
        if self.shown is None:
            return said
        return said[: max(0, self.shown - len("".join(self.tokens[:first])))]

    def arguments(self, first: int = 0, last: int | None = None) -> str:
        """Return the part of the called function's arguments that the tokens from `first` to before `last` spell."""
        last = self.made if last is None else last
        return "".join(self.tokens[max(first, 1) : min(last, len(self.tokens) - 1)])

    def likelihoods(self, first: int, last: int, others: int) -> Iterator[list[tuple[str, float]]]:
        """Yield for each of these tokens a list of the token itself and `others` more, with their logprobs."""
        return (pretend_text.likelihoods(self.weights, token, others) for token in self.tokens[first:last])


def choices(text_request: TextRequest, weights: str) -> list[Choice]:
    """Return all answers that the model will give to a request, in the order of its prompts."""
    numbered = enumerate(prompt for prompt in text_request.prompts for _ in range(text_request.count))
    return [_choice(text_request, weights, prompt, index) for index, prompt in numbered]


def _choice(text_request: TextRequest, weights: str, prompt: str, index: int) -> Choice:
    salt = f"{text_request.salt}#{index}" if text_request.salt and index else text_request.salt
    tokens = _tokens(text_request, weights, prompt, salt)
    made, shown, matched = _stopped(tokens[: text_request.limit], text_request)
    ends = "length" if matched is None and len(tokens) >= text_request.limit else "stop"
    rid = text_request.rid if index == 0 else f"{text_request.rid}-{index}"
    return Choice(
        index=index,
        rid=rid,
        prompt=prompt,
        weights=weights,
        tokens=made,
        shown=shown,
        matched=pretend_text.END_OF_TEXT if matched is None else matched,
        called=text_request.call.name if text_request.call else None,
        job=Job(rid, len(made), ends),
    )


def _tokens(text_request: TextRequest, weights: str, prompt: str, salt: str) -> tuple[str, ...]:
    """Return all that the model would say; of words that never end, as many as the request's limit."""
    if text_request.call is not None:
        head = f'[{{"name": "{text_request.call.name}", "parameters": '
        return (head, *_json(text_request.call.parameters, weights, prompt, salt), "}]")
    if text_request.schema is not None:
        return _json(text_request.schema, weights, prompt, salt)
    length = (
        text_request.limit
        if text_request.endless
        else min(text_request.limit, pretend_text.natural_length(weights, prompt, salt))
    )
    words = pretend_text.tokens(weights, prompt, salt)
    return tuple(islice(words, length))


def _json(schema: dict[str, Any], weights: str, prompt: str, salt: str) -> tuple[str, ...]:
    return tuple(spelled(fitting(schema, pretend_text.draw("json", weights, prompt, salt), pretend_text.WORDS)))


def _stopped(tokens: tuple[str, ...], text_request: TextRequest) -> tuple[tuple[str, ...], int | None, str | None]:
    """Return the tokens up to the first stop string, how many of their characters the client gets, and that string."""
    said = "".join(tokens)
    found = min(((at, stop) for stop in text_request.stops if stop and (at := said.find(stop)) >= 0), default=None)
    if found is None:
        return tokens, None, None
    at, stop = found
    end, made = at + len(stop), 0
    length = 0
    while length < end:
        length += len(tokens[made])
        made += 1
    return tokens[:made], end if text_request.keeps_stop else at, stop
