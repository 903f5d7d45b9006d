"""Every cause is told by its own name, from what vLLM really writes and answers."""

import pytest

from muxd.config import Model
from muxd.config.engine_options import VLLMOptions
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.vllm import diagnosis
from muxd.engines.vllm.log_patterns import VLLM_PATTERNS

from .log_samples import LOG_SAMPLES

MODEL = Model("qwen", engine="vllm", model_path="org/x", gpus=("2",), engine_options=VLLMOptions())


def of_log(text: str, **known: object) -> Diagnosis | None:
    return diagnosis.diagnose(Evidence(text, **known), MODEL)  # type: ignore[arg-type]


@pytest.mark.parametrize("sample", LOG_SAMPLES, ids=lambda sample: f"{sample.code}: {sample.source}")
def test_a_log_tells_the_cause_what_happened_and_whether_another_try_is_of_use(sample):
    cause = of_log("(APIServer pid=7) INFO 11-29 12:19:42 [vllm.py:725] Starting\n" + sample.text)
    assert cause is not None
    assert (cause.code, cause.refused) == (sample.code, sample.refused)
    assert sample.words in str(cause)
    assert str(cause).isprintable()
    assert len(str(cause)) < 400


def test_every_pattern_has_an_example():
    found = {str(each.find(sample.text) and each.pattern) for each in VLLM_PATTERNS for sample in LOG_SAMPLES}
    prefixed = {each.pattern for each in VLLM_PATTERNS if each.pattern.startswith("^")}
    assert [each.pattern for each in VLLM_PATTERNS if each.pattern not in found | prefixed] == []


def test_an_error_of_another_process_is_told_and_not_that_there_was_one():
    text = (
        "(EngineCore pid=7) ERROR 11-29 12:16:19 [core.py:1510] KeyError: 'rope'\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    cause = of_log(text, status=1)
    assert cause is not None
    assert "KeyError: 'rope'" in cause.message


GONE = "ERROR 11-29 16:13:09 [x.py:5] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"


@pytest.mark.parametrize(
    ("text", "kills", "code", "words"),
    [
        (f"(APIServer pid=6) {GONE}", 1, "host_out_of_memory", "killed by SIGKILL"),
        (f"(APIServer pid=6) {GONE}", None, "host_out_of_memory", "killed by SIGKILL"),
        (f"(APIServer pid=6) {GONE}", 0, "engine_error", "its engine core has ended"),
        (
            "(EngineCore pid=7) ERROR 11-29 12:16:19 [core.py:1512] EngineCore encountered a fatal error.\n"
            f"(EngineCore pid=7) ERROR 11-29 12:16:19 [core.py:1512] KeyError: 'rope'\n(APIServer pid=6) {GONE}",
            None,
            "engine_error",
            "KeyError: 'rope'",
        ),
        (
            "(EngineCore pid=7) ERROR Worker proc W-0 died unexpectedly (exit code: -9), x\n",
            2,
            "host_out_of_memory",
            "",
        ),
    ],
)
def test_the_end_of_an_engine_core_is_told_by_what_ended_it(text, kills, code, words):
    cause = of_log(text, doing="served", status=1, oom_kills=kills)
    assert cause is not None
    assert cause.code == code
    assert words in cause.message


def test_a_server_that_still_loads_is_left_to_load():
    assert of_log(LOG_SAMPLES[0].text, is_alive=True) is None


def test_one_that_died_of_a_reload_is_told_as_that():
    cause = of_log("", broken_call="reload")
    assert cause is not None
    assert cause.code == "reload_refused"


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("sleep", 404, "engine_too_old"),
        ("resume", 401, "engine_locked"),
        ("reload", 500, "reload_refused"),
        ("sleep", 500, None),
    ],
)
def test_an_answer_tells_why_a_call_was_refused(call, status, code):
    cause = diagnosis.of_answer(call, status, "no")
    assert (cause and cause.code) == code


def test_parts_of_a_server_are_known_by_their_titles():
    assert diagnosis.are_parts(["VLLM::EngineCore", "VLLM::Worker"])
    assert not diagnosis.are_parts(["VLLM::EngineCore", "python3"])
    assert not diagnosis.are_parts([])
