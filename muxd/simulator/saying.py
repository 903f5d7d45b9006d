"""One answer in the making: which tokens it has, how far it is, and why it ended.

Which tokens they are is decided at the beginning, as nothing that happens later changes
them; `Job` says how many of them there are by now.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import uuid4

from . import pretend_text
from .batch import Job
from .schemas import fitting, spelled
from .text_request import TextRequest


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request."""

    index: int
    rid: str
    prompt: str
    weights: str
    tokens: tuple[str, ...]
    shown: int | None  # characters that may be seen of them; None is all
    matched: str | int | None  # what stopped it: one of the client's strings, or the id of the end of text
    called: str | None  # the function that is called; its arguments lie between the first token and the last
    job: Job
    call_id: str = field(default_factory=lambda: f"call_{uuid4().hex[:24]}")

    @property
    def finish(self) -> str | None:
        """In OpenAI's words; None while it goes on."""
        return "tool_calls" if self.called is not None and self.job.finish == "stop" else self.job.finish

    @property
    def stopped_by(self) -> str | int | None:
        return self.matched if self.job.finish == "stop" else None

    @property
    def made(self) -> int:
        return self.job.made

    def text(self, first: int = 0, last: int | None = None) -> str:
        """What these of its tokens show."""
        said = "".join(self.tokens[first : self.made if last is None else last])
        if self.shown is None:
            return said
        return said[: max(0, self.shown - len("".join(self.tokens[:first])))]

    def arguments(self, first: int = 0, last: int | None = None) -> str:
        """What these of its tokens are of the called function's arguments."""
        last = self.made if last is None else last
        return "".join(self.tokens[max(first, 1) : min(last, len(self.tokens) - 1)])

    def likelihoods(self, first: int, last: int, others: int) -> Iterator[list[tuple[str, float]]]:
        """For each of these tokens itself and `others` more, with their logprobs."""
        return (pretend_text.likelihoods(self.weights, token, others) for token in self.tokens[first:last])


def choices(asked: TextRequest, weights: str) -> list[Choice]:
    """What the model will say to all that is asked; the prompts' answers in turn."""
    numbered = enumerate(prompt for prompt in asked.prompts for _ in range(asked.count))
    return [_choice(asked, weights, prompt, index) for index, prompt in numbered]


def _choice(asked: TextRequest, weights: str, prompt: str, index: int) -> Choice:
    salt = f"{asked.salt}#{index}" if asked.salt and index else asked.salt
    whole = _tokens(asked, weights, prompt, salt)
    made, shown, matched = _stopped(whole[: asked.limit], asked)
    ends = "length" if matched is None and len(whole) >= asked.limit else "stop"
    rid = asked.rid if index == 0 else f"{asked.rid}-{index}"
    return Choice(
        index=index,
        rid=rid,
        prompt=prompt,
        weights=weights,
        tokens=made,
        shown=shown,
        matched=pretend_text.END_OF_TEXT if matched is None else matched,
        called=asked.call.name if asked.call else None,
        job=Job(rid, len(made), ends),
    )


def _tokens(asked: TextRequest, weights: str, prompt: str, salt: str) -> tuple[str, ...]:
    """All that the model would say, and at most the limit of words that never end."""
    if asked.call is not None:
        head = f'[{{"name": "{asked.call.name}", "parameters": '
        return (head, *_json(asked.call.parameters, weights, prompt, salt), "}]")
    if asked.schema is not None:
        return _json(asked.schema, weights, prompt, salt)
    length = asked.limit if asked.endless else min(asked.limit, pretend_text.natural_length(weights, prompt, salt))
    words = pretend_text.tokens(weights, prompt, salt)
    return tuple(islice(words, length))


def _json(schema: dict[str, Any], weights: str, prompt: str, salt: str) -> tuple[str, ...]:
    return tuple(spelled(fitting(schema, pretend_text.draw("json", weights, prompt, salt), pretend_text.WORDS)))


def _stopped(tokens: tuple[str, ...], asked: TextRequest) -> tuple[tuple[str, ...], int | None, str | None]:
    """The tokens up to the first of the stop strings, how many characters of them are seen, and that string."""
    said = "".join(tokens)
    found = min(((at, stop) for stop in asked.stops if stop and (at := said.find(stop)) >= 0), default=None)
    if found is None:
        return tokens, None, None
    at, stop = found
    end, made = at + len(stop), 0
    length = 0
    while length < end:
        length += len(tokens[made])
        made += 1
    return tokens[:made], end if asked.keeps_stop else at, stop
