"""Every cause is told by its own name, from what engines really write and answer."""

import signal

import pytest

from muxd.config import Model
from muxd.config.model_schema import Script
from muxd.engines.diagnosis import LAST_LINES, Evidence
from muxd.engines.sglang import diagnosis
from muxd.engines.sglang.diagnosis import PATTERNS
from muxd.errors import ModelFailed, error_of
from muxd.simulator.crashes import ENDINGS

from .log_samples import FLAGS, LOG_SAMPLES, MODELS

MODEL = Model("qwen", model_path="org/x", served_names=("qwen",), gpus=("2",))


def of_log(text, doing=None):
    return diagnosis.diagnose(Evidence(text, doing, timed_out=True), MODEL)


LOGGED = "[2026-11-21 15:37:43] Init parallel begin.\n"


@pytest.mark.parametrize("sample", LOG_SAMPLES, ids=lambda sample: f"{sample.code}: {sample.source}")
def test_a_log_tells_the_cause_what_happened_and_whether_another_try_is_of_use(sample):
    cause = of_log(LOGGED + sample.text)
    assert cause is not None
    assert (cause.code, cause.refused) == (sample.code, sample.refused)
    assert sample.words in str(cause)


def test_every_sign_has_an_example():
    told = {str(sign.find(LOGGED + sample.text) and sign.pattern) for sign in PATTERNS for sample in LOG_SAMPLES}
    assert [sign.pattern for sign in PATTERNS if sign.pattern not in told] == []


@pytest.mark.parametrize("sample", LOG_SAMPLES, ids=lambda sample: f"{sample.code}: {sample.source}")
def test_a_reason_is_one_short_line_of_printable_text(sample):
    reason = str(of_log(sample.text))
    assert reason.isprintable()
    assert "Traceback" not in reason
    assert len(reason) < 400


@pytest.mark.parametrize("sample", LOG_SAMPLES, ids=lambda sample: sample.code)
def test_every_code_is_that_of_an_error_that_says_503(sample):
    assert error_of(sample.code, "").code == sample.code
    if sample.code != "port_taken":
        assert error_of(sample.code, "").status == ModelFailed.status


def test_what_has_served_is_not_refused_for_what_its_log_says():
    cause = of_log(MODELS[0].text, "served")
    assert cause is not None
    assert not cause.refused


def test_the_last_thing_said_counts():
    earlier, last = MODELS[0].text, FLAGS[0].text
    cause = of_log(earlier + last)
    assert cause is not None
    assert cause.code == "bad_flag"


@pytest.mark.parametrize(
    "text",
    [
        "[2026-11-21 15:45:35] OpenAI Responses API (/v1/responses) disabled: OpenAIServingResponses init failed "
        "(ModuleNotFoundError: No module named 'openai_harmony')\n",  # 0.5.23 on a CPU, at every start
        "[2026-11-21 15:37:45] KV pool holds 64 tokens, fewer than --context-length 4096. One full-length request "
        "cannot fit, so long requests will be refused or truncated at serving time.\n",  # it serves all the same
        "[torch_memory_saver.cpp] cuMemCreate CUDA_ERROR_OUT_OF_MEMORY (may not be an issue e.g. torch allocator will "
        "free cache and retry)\n",
        "INFO:     POST /v1/chat/completions: CUDA out of memory. Tried to allocate\n",
        "",
    ],
)
def test_what_is_no_reason_to_die_is_not_taken_for_one(text):
    assert of_log(LOGGED + text) is None


def test_a_flags_value_is_not_told():
    text = FLAGS[0].text.replace("--no-such-flag 5", "--api-keys s3cret --admin=s3cret")
    reason = str(of_log(text))
    assert "--api-keys --admin" in reason
    assert "s3cret" not in reason


def test_muxds_own_key_is_not_told():
    key = f"muxd-{'0' * 32}"
    reason = str(diagnosis.diagnose(Evidence(f"ValueError: what is {key}?\n", status=1), MODEL))
    assert "what is [secret]?" in reason


# How it ended


def test_an_error_that_nobody_knows_is_quoted():
    text = LOGGED + "Traceback (most recent call last):\nAssertionError: page_size must be a multiple of 64\n"
    cause = diagnosis.diagnose(Evidence(text, status=1), MODEL)
    assert cause is not None
    assert (cause.code, cause.refused) == ("engine_error", False)
    assert "AssertionError: page_size must be a multiple of 64" in cause.message


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB. GPU {} has a total capacity of 9.00 GiB "
        "of which 1.00 GiB is free.",
        "RuntimeError: The NVIDIA driver on your system is too old (found version {}). Please update",
    ],
)
def test_a_number_that_no_machine_has_is_only_quoted(line):
    """int() refuses one of more than 4300 digits."""
    cause = diagnosis.diagnose(Evidence(line.format("9" * 5000) + "\n", status=1), MODEL)
    assert cause is not None
    assert len(str(cause)) < 500


def test_an_error_that_was_long_ago_is_not():
    text = "ValueError: of a request\n" + LOGGED * LAST_LINES
    assert diagnosis.diagnose(Evidence(text, status=1), MODEL) is None


@pytest.mark.parametrize(
    "ending",
    [
        Evidence("", signal=signal.SIGKILL, oom_kills=1),
        Evidence("", signal=signal.SIGKILL, oom_kills=None),
        Evidence("", status=137, oom_kills=1),  # of a launch script
        # engine.py and watchdog.py of 0.5.23
        Evidence("RuntimeError: Rank 0 scheduler died during initialization (exit code: -9).\n", status=1, oom_kills=1),
        Evidence("Subprocess scheduler_0 (pid=7) crashed with exit code -9.\n", signal=signal.SIGKILL, oom_kills=1),
    ],
    ids=["oom", "not told", "of a script", "while loading", "while serving"],
)
def test_a_sigkill_that_nobody_here_sent_is_probably_the_kernels(ending):
    cause = diagnosis.diagnose(ending, MODEL)
    assert cause is not None
    assert cause.code == "host_out_of_memory"
    assert "probably" in cause.message
    assert not cause.refused


def test_a_sigkill_is_not_the_kernels_where_it_has_killed_nobody():
    assert diagnosis.diagnose(Evidence("", signal=signal.SIGKILL, oom_kills=0), MODEL) is None


def test_a_sigkill_of_the_main_process_by_itself_is_told_by_its_log():
    cause = diagnosis.diagnose(Evidence(MODELS[2].text, signal=signal.SIGKILL, oom_kills=None), MODEL)
    assert cause is not None
    assert cause.code == "model_incomplete"


def test_an_end_without_a_word_has_no_cause():
    assert diagnosis.diagnose(Evidence(LOGGED, status=1, oom_kills=3), MODEL) is None


# What it answered


@pytest.mark.parametrize(
    ("call", "status", "body", "code"),
    [
        ("release", 404, '{"detail":"Not Found"}', "engine_too_old"),
        ("/v1/loads", 404, '{"detail":"Not Found"}', "engine_too_old"),
        ("pause", 401, '{"error":"Unauthorized"}', "engine_locked"),
        # weight_updater.py of 0.5.23 around an error of github.com/sgl-project/sglang pull request 5424
        (
            "reload",
            400,
            '{"success":false,"message":"Failed to update weights: \'Parameter\' object has no attribute '
            '\'weight_loader\'.\\nRolling back to original weights.","num_paused_requests":0}',
            "reload_refused",
        ),
    ],
)
def test_a_refused_call_tells_the_cause(call, status, body, code):
    cause = diagnosis.of_answer(call, status, body)
    assert cause is not None
    assert cause.code == code
    assert str(cause).isprintable()


@pytest.mark.parametrize(("status", "body"), [(500, "Internal Server Error"), (400, "null"), (503, '{"success":true}')])
def test_an_answer_that_tells_nothing_has_no_cause(status, body):
    assert diagnosis.of_answer("reload", status, body) is None


def test_a_refused_reload_says_what_was_wrong_and_which_levels_are_left():
    cause = diagnosis.of_answer("reload", 400, '{"success": false, "message": "no attribute \'weight_loader\'"}')
    assert "no attribute 'weight_loader'" in str(cause)
    assert "sleep_level = 1 or 3" in str(cause)


def test_a_reload_that_is_died_of_is_a_refused_one_and_no_other_call_is():
    assert diagnosis.of_broken_call("reload") is not None
    assert diagnosis.of_broken_call("release") is None


def test_memory_that_does_not_come_back_is_an_engine_without_its_saver_or_a_slow_one():
    over = "100 MiB on GPU 0 of its memory did not come back in 30 s"
    assert diagnosis.of_kept_memory(over, has_saver=False).code == "engine_too_old"
    for unknown in (True, None):
        assert diagnosis.of_kept_memory(over, has_saver=unknown).code == "memory_not_released"


# The simulator, and the documents

_CODES = {
    "missing-path": "model_path_missing",
    "no-config": "model_incomplete",
    "no-weights": "model_incomplete",
    "cut-weights": "model_incomplete",
    "gated": "model_download_failed",
    "unknown-model": "model_download_failed",
    "offline": "model_download_failed",
    "remote-code": "unsupported_model",
    "architecture": "unsupported_model",
    "context": "context_too_long",
    "kv-room": "out_of_memory",
    "host-memory": "host_out_of_memory",
    "disk": "disk_full",
    "no-sglang": "engine_missing",
    "no-memory-saver": "engine_missing",
    "old-driver": "cuda_unavailable",
    "no-gpu": "cuda_unavailable",
    "permission": "access_denied",
    "unknown-error": "engine_error",
    "killed": None,
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_simulators_endings_are_told_as_the_real_ones(name):
    ending = ENDINGS[name]
    status, number = (ending.status, None) if ending.status > 0 else (None, -ending.status)
    cause = diagnosis.diagnose(Evidence(ending.text, signal=number, status=status, oom_kills=0), MODEL)
    assert (cause and cause.code) == _CODES[name]


def test_every_error_of_a_failed_model_has_a_line_that_says_what_it_is():
    for error in ModelFailed.__subclasses__():
        assert error.__doc__


def test_the_python_of_a_launch_script_is_named_where_the_script_names_it():
    said = "/opt/x/bin/python: No module named sglang"
    for program, named in (("/opt/x/bin/python", "/opt/x/bin/python"), ("", "the Python")):
        model = Model("qwen", script=Script(("bash", "a.sh"), program=program))
        cause = diagnosis.diagnose(Evidence(said, None, timed_out=True), model)
        assert f"sglang is not installed in {named}, which its launch script calls" in str(cause)
