"""Causes that any engine may have, and how texts of its log are matched."""

import errno
import re

import pytest

from muxd.config import Model
from muxd.engines.diagnosis import Evidence, of_answer, of_failed_exec, of_log
from muxd.engines.log_patterns import GENERAL_PATTERNS, LogPattern
from muxd.errors import BadFlag, EngineError

MODEL = Model("m", model_path="org/x")
#: The words that patterns of any engine may ask an engine for.
WORDS = {"engine": "Other", "less_gpu": "end what else is on the GPU"}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "engine_missing"),
        (errno.ENOEXEC, "engine_missing"),
        (errno.EACCES, "access_denied"),
        (errno.ENOSPC, "disk_full"),
        (errno.ENOMEM, "host_out_of_memory"),
    ],
)
def test_what_the_system_refuses_before_the_engine_runs_has_a_code(number, code):
    cause = of_failed_exec(number, "could not be executed")
    assert cause is not None
    assert cause.code == code


def test_what_the_system_says_for_itself_is_left_alone():
    assert of_failed_exec(errno.EMFILE, "too many open files") is None
    assert of_failed_exec(None, "its shim was killed") is None


def test_a_pattern_of_any_engine_needs_no_other_word_of_it():
    groups = {"flags", "cuda", "model", "python", "phase", "path", "gpu", *WORDS}
    for pattern in GENERAL_PATTERNS:
        known = groups | set(re.compile(pattern.pattern).groupindex)
        assert set(re.findall(r"{(\w+)}", pattern.message + pattern.remedy)) <= known, pattern.message


def test_an_engines_own_name_is_in_the_remedy():
    said = "ValueError: The checkpoint you are trying to load has model type `new` but Transformers does not know it\n"
    cause = of_log(Evidence(said), GENERAL_PATTERNS, MODEL, WORDS)
    assert cause is not None
    assert cause.remedy == "update Other and its transformers"


def test_at_one_place_the_first_pattern_counts_and_else_what_was_said_last():
    first, second = LogPattern(BadFlag, "a+", "first", ""), LogPattern(EngineError, "a", "second", "")
    for said, message in (("xa", "first"), ("b", None), ("a b", "first")):
        cause = of_log(Evidence(said), (first, second), MODEL, {})
        assert (cause.message if cause is not None else None) == message
    last = of_log(Evidence("a b"), (first, LogPattern(EngineError, "b", "later", "")), MODEL, {})
    assert last is not None
    assert last.message == "later"


def test_an_engine_that_knows_no_such_call_is_told_with_its_own_remedy():
    cause = of_answer("release", 404, remedy="take another")
    assert cause is not None
    assert (cause.code, cause.remedy) == ("engine_too_old", "take another")
