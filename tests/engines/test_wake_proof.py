"""Which answers count as the same as before a sleep, and which do not."""

import msgspec
import pytest

from muxd.engines.wake_proof import (
    COMPONENTS,
    LEAST_COSINE,
    LOGPROB_TOLERANCE,
    PROMPT,
    ProofAnswer,
    difference,
    text_answer,
    vector_answer,
)

TEXT = text_answer([-5.0, -6.0], [[(31, -1.0), (65, -2.0)], [(7, -1.5), (8, -1.6)]])
VECTOR = vector_answer([3.0, 4.0, 0.0])


def text(prompt: tuple[object, ...] = (-5.0, -6.0), first=((31, -1.0), (65, -2.0)), second=((7, -1.5), (8, -1.6))):
    return text_answer(prompt, [first, second])


def test_the_question_is_of_ids_that_every_vocabulary_has():
    assert (len(PROMPT), len(set(PROMPT)), min(PROMPT), max(PROMPT)) == (32, 32, 11, 151)


@pytest.mark.parametrize("answer", [TEXT, VECTOR])
def test_the_same_answer_does_not_differ_even_when_it_was_in_the_state_file(answer):
    kept = msgspec.json.decode(msgspec.json.encode(answer), type=ProofAnswer)
    assert answer.is_sound
    assert difference(kept, answer) is None


@pytest.mark.parametrize("shift", [LOGPROB_TOLERANCE, -LOGPROB_TOLERANCE])
def test_logprobs_may_differ_by_the_tolerance(shift):
    near = text((-5.0 + shift, -6.0), ((31, -1.0 + shift), (65, -2.0)))
    assert difference(TEXT, near) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (text((-5.0, -6.3)), "logprobs of the prompt differ by up to 0.30"),
        (text(first=((31, -1.3), (65, -2.0))), "the logprob of its token 1 differs by 0.30"),
        (text(first=((0, -1.0), (1, -1.0))), "its token 1 is 0, and was 31"),
        (text(first=((65, -0.9), (31, -1.3))), "the logprob of its token 1 differs by 0.30"),
        (text(second=((9, -1.5), (10, -1.6))), "its token 2 is 9, and was 7"),
        (text((-5.0,)), "its answer has another form"),
        (text_answer([-5.0, -6.0], [[(31, -1.0), (65, -2.0)]]), "its answer has another form"),
        (VECTOR, "its answer has another form"),
        (text((None, -6.0)), "its answer has something in the place of numbers"),
        (text((float("nan"), -6.0)), "its answer has something in the place of numbers"),
        (text(first=((31, None), (65, -2.0))), "its answer has something in the place of numbers"),
        (ProofAnswer(), "its answer has something in the place of numbers"),
    ],
)
def test_another_answer_differs_and_the_difference_is_said(answer, said):
    assert difference(TEXT, answer) == said


def test_of_two_tokens_as_likely_as_one_another_either_may_be_said_and_what_follows_is_another_story():
    before = text(first=((31, -1.0), (65, -1.1)))
    assert difference(before, text(first=((65, -1.0), (31, -1.1)), second=((9, -3.0), (10, -4.0)))) is None


def test_a_token_said_is_compared_even_where_the_server_holds_others_for_likelier():
    assert text_answer([], [[(5, -3.0), (31, -1.0), (5, -3.0), (65, -2.0)]]).tokens == (((5, -3.0), (31, -1.0)),)


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([3.0, 4.0, 0.2], None),
        ([6.0, 8.0, 0.0], None),
        ([3.0, 4.0, 0.3], "its vector has a cosine of 0.9982 with the former one"),
        ([0.0, 0.0, 0.0], "its vector has a cosine of 0.0000 with the former one"),
        ([-3.0, -4.0, 0.0], "its vector has a cosine of -1.0000 with the former one"),
        ([3.0, 4.0], "its answer has another form"),
        ([3.0, "4", 0.0], "its answer has something in the place of numbers"),
        ([3.0, None, 0.0], "its answer has something in the place of numbers"),
    ],
)
def test_vectors_are_compared_by_their_cosine(vector, said):
    assert LEAST_COSINE > 0.9982
    assert difference(VECTOR, vector_answer(vector)) == said


def test_of_a_long_vector_only_the_beginning_is_kept():
    assert len(vector_answer([1.0] * 4096).vector) == COMPONENTS


@pytest.mark.parametrize("answer", [ProofAnswer(), vector_answer([0.7]), vector_answer([None, 1.0]), text((None, 1.0))])
def test_an_answer_without_two_numbers_or_with_something_else_proves_nothing(answer):
    assert not answer.is_sound
