"""What servers of OpenAI's API answer to the wake proof, in each of their forms."""

import pytest

from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.openai.proof import COMPLETIONS, EMBEDDINGS, answer_in, question
from muxd.engines.wake_proof import difference


def completion(logprobs=None, text="ab"):
    return {"choices": [{"text": text, "logprobs": logprobs}]}


def as_completions(first="a", p=-0.5):
    return completion(
        {
            "tokens": [first, "b"],
            "token_logprobs": [p, -0.1],
            "top_logprobs": [{first: p, "c": -1.5}, {"b": -0.1}],
        }
    )


def as_llama_cpp(first=7, p=-0.5):
    others = [{"id": first, "token": "", "logprob": p}, {"id": 8, "token": "x", "logprob": -1.5}]
    return completion({"content": [{"id": first, "token": "", "logprob": p, "top_logprobs": others}]})


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (as_completions(), as_completions("z"), COMPLETIONS),
        (as_completions(), as_completions(p=-1.2), COMPLETIONS),
        (as_llama_cpp(), as_llama_cpp(9), COMPLETIONS),
        (as_llama_cpp(), as_llama_cpp(p=-1.2), COMPLETIONS),
        (completion(text="ab"), completion(text="ac"), COMPLETIONS),
        (completion(text="ab"), as_completions(), COMPLETIONS),
        ({"data": [{"embedding": [1.0, 0.0]}]}, {"data": [{"embedding": [0.0, 1.0]}]}, EMBEDDINGS),
    ],
)
def test_the_same_answer_is_the_same_and_another_one_is_not(before, after, path):
    assert answer_in(path, before).is_sound
    assert difference(answer_in(path, before), answer_in(path, before)) is None
    assert difference(answer_in(path, before), answer_in(path, after)) is not None


@pytest.mark.parametrize(
    "answer", [None, 5, {}, {"choices": []}, {"choices": [{}]}, completion(text=None), {"data": 1}]
)
@pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS])
def test_an_answer_that_is_none_was_an_answer_all_the_same(answer, path):
    with pytest.raises(EngineCallFailed, match="neither text nor a vector") as caught:
        answer_in(path, answer)
    assert caught.value.answered


def test_the_question_is_text_for_the_name_that_the_server_knows():
    asked = question(COMPLETIONS, "gemma3:27b")
    assert (asked["model"], asked["temperature"], asked["prompt"][:20]) == ("gemma3:27b", 0, "The primes are 11, 1")
    assert question(EMBEDDINGS, "bge")["input"] == asked["prompt"]
