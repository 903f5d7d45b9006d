"""The wake proof: what a server answers when it was just loaded, and whether it answers the same after a wake.

A server is asked for the next tokens of PROMPT, greedily, or for the vector of PROMPT.  What a sleep took away and a
wake did not bring back shows in the answer: weights that were not reloaded, a KV cache that was not mapped again.  This
module compares, and asks nobody; `Engine.proof` asks.
"""

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt

from msgspec import Struct

#: The question, as token ids: 32 primes.  Every vocabulary has ids as small as these.
PROMPT = tuple(number for number in range(11, 152) if all(number % divisor for divisor in range(2, number)))

#: Tokens of the answer: the first comes with the prompt, the second from a decoding step.
ANSWER_TOKENS = 2

#: Tokens that are compared at each of these: the one that was said, and the next likeliest.
LIKELIEST = 2

#: The most by which a logprob may differ.  SGLang 0.5.23 and vLLM 0.32.0 on a CPU answer with the same bits after every
#: wake; the two differ from each other by 0.004, and from another model by 1.1.  On a GPU a sum may be rounded
#: otherwise from one run to the next: 0.25 is two steps of a bfloat16 logit between 16 and 32.
LOGPROB_TOLERANCE = 0.25

#: The least cosine of two vectors that count as the same.  Rounding to bfloat16 leaves 0.99999 of one.
LEAST_COSINE = 0.999

#: Components of a vector that are kept to be compared; an answer is in the state file.
COMPONENTS = 256

#: None stands for what a server sent in the place of a number.
Numbers = tuple[float | None, ...]


class ProofAnswer(Struct, frozen=True):
    """What a server answered to PROMPT: logprobs and tokens, or a vector."""

    prompt: Numbers = ()  # logprobs of the prompt's tokens, from the second on
    tokens: tuple[
        tuple[tuple[int, float | None], ...], ...
    ] = ()  # by position the likeliest, with logprobs; said: first
    vector: Numbers = ()

    @property
    def is_sound(self) -> bool:
        """Say whether the answer is one that others can be compared with."""
        logprobs = [logprob for likeliest in self.tokens for _, logprob in likeliest]
        numbers = (*self.prompt, *logprobs, *self.vector)
        return None not in numbers and len(numbers) > 1


def text_answer(prompt: Iterable[object], tokens: Iterable[Iterable[tuple[int, object]]]) -> ProofAnswer:
    """Return an answer of tokens from what a server sent: by position, the token said and then the likeliest ones.

    The token said may be among the likeliest.
    """
    likeliest = ({token: _number(sent) for token, sent in each} for each in tokens)
    return ProofAnswer(tuple(map(_number, prompt)), tuple(tuple(each.items())[:LIKELIEST] for each in likeliest))


def vector_answer(vector: Sequence[object]) -> ProofAnswer:
    """Return an answer of a vector, from what a server sent."""
    return ProofAnswer(vector=tuple(map(_number, vector[:COMPONENTS])))


def difference(before: ProofAnswer, after: ProofAnswer) -> str | None:
    """Return how an answer differs from an earlier one, as a phrase; None where it is the same.

    Both must be sound, else they differ.  Where two tokens are as likely as one another, within the tolerance, either
    may be said: the same model can say one before a sleep and the other after it.
    """
    if not (before.is_sound and after.is_sound):
        return "its answer has something in the place of numbers"
    if _form(before) != _form(after):
        return "its answer has another form"
    if before.vector:
        cosine = _cosine(before.vector, after.vector)
        return None if cosine >= LEAST_COSINE else f"its vector has a cosine of {cosine:.4f} with the former one"
    if (most := max(map(_apart, before.prompt, after.prompt), default=0.0)) > LOGPROB_TOLERANCE:
        return f"logprobs of the prompt differ by up to {most:.2f}"
    return _other_tokens(before, after)


def _other_tokens(before: ProofAnswer, after: ProofAnswer) -> str | None:
    """Return where the tokens said differ, or their logprobs, up to the first position where either may be said."""
    for place, (old, new) in enumerate(zip(before.tokens, after.tokens, strict=True), 1):
        (said, logprob), (says, _) = old[0], new[0]
        found = dict(new).get(said)
        if found is None:
            return f"its token {place} is {says}, and was {said}"
        if (apart := _apart(logprob, found)) > LOGPROB_TOLERANCE:
            return f"the logprob of its token {place} differs by {apart:.2f}"
        if says != said:
            break
    return None


def _form(answer: ProofAnswer) -> tuple[int, int, int]:
    return len(answer.prompt), len(answer.tokens), len(answer.vector)


def _number(sent: object) -> float | None:
    return float(sent) if isinstance(sent, int | float) and isfinite(sent) else None


def _apart(old: float | None, new: float | None) -> float:
    assert old is not None
    assert new is not None
    return abs(new - old)


def _cosine(one: Numbers, other: Numbers) -> float:
    lengths = sqrt(_product(one, one) * _product(other, other))
    return _product(one, other) / lengths if lengths else 0.0


def _product(one: Numbers, other: Numbers) -> float:
    return sum((a or 0.0) * (b or 0.0) for a, b in zip(one, other, strict=True))
