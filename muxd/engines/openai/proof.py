"""The wake proof of a server of OpenAI's API: the question as text, and what such servers answer to it.

Some answer with logprobs as OpenAI's completions have them, some as its chat completions (llama.cpp), some with none:
then the text alone is compared, character by character.
"""

from typing import Any

from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.wake_proof import ANSWER_TOKENS, LIKELIEST, PROMPT, ProofAnswer, text_answer, vector_answer

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"

QUESTION = "The primes are " + ", ".join(map(str, PROMPT))


def question(path: str, name: str) -> dict[str, Any]:
    """Return the body of the question on that route; llama.cpp is kept off its prompt cache."""
    if path == EMBEDDINGS:
        return {"model": name, "input": QUESTION}
    sampling = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "logprobs": LIKELIEST, "cache_prompt": False}
    return {"model": name, "prompt": QUESTION, **sampling}


def answer_in(path: str, answer: Any) -> ProofAnswer:
    """Return what was answered on that route; raise EngineCallFailed where it is no text, or no vector."""
    try:
        if path == EMBEDDINGS:
            return vector_answer(answer["data"][0]["embedding"])
        choice = answer["choices"][0]
        said = choice.get("logprobs") or {}
        if "content" in said:
            return text_answer((), (_likeliest(each) for each in said["content"]))
        if "token_logprobs" in said:
            top = said.get("top_logprobs") or [{}] * len(said["tokens"])
            tokens = zip(said["tokens"], said["token_logprobs"], top, strict=True)
            return text_answer(
                (), ([(_id(t), p), *((_id(o), q) for o, q in others.items())] for t, p, others in tokens)
            )
        return text_answer((), ([(ord(character), 0.0)] for character in choice["text"]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise EngineCallFailed("proof: the answer is neither text nor a vector", answered=True) from None


def _likeliest(position: Any) -> list[tuple[int, object]]:
    """Return the token said at a position, and the likeliest ones, with their logprobs."""
    return [(each.get("id", _id(each["token"])), each["logprob"]) for each in (position, *position["top_logprobs"])]


def _id(token: str) -> int:
    """Return a number that stands for a token of which only the text is known."""
    return int.from_bytes(token.encode(errors="surrogatepass")[:16])
