"""Sleep and wake, and every way to kill a server with them."""

import signal

import pytest

from muxd.simulator.gpu_ledger import GpuLedger, OutOfMemory, start_time
from tests.seeds import thorough

from .harness import eventually

MiB = 1 << 20
TAGS = {"tags": ["kv_cache", "weights"]}
NO_DUMPS = {"SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"}
SIZES = ("--gpu-memory", 100 * MiB, "--weights", 60 * MiB, "--kv", 20 * MiB, "--overhead", 2 * MiB)


@pytest.fixture
def ledger(tmp_path):
    return GpuLedger(tmp_path / "gpus", 100 * MiB)


@pytest.fixture
def sleeper(start, tmp_path):
    """Starts a server that can sleep and shares pretend GPUs with the others of the test."""

    def start_sleeper(*flags, **options):
        saver = ("--enable-memory-saver", "--ledger", tmp_path / "gpus", *SIZES)
        return start(*saver, *flags, **{**NO_DUMPS, **options})

    return start_sleeper


def pause(simulator):
    assert simulator.post("/pause_generation", {}).status == 200


def release(simulator, body=TAGS):
    answer = simulator.post("/release_memory_occupation", body)
    assert (answer.status, answer.json) == (200, None)


def resume(simulator, body=TAGS):
    answer = simulator.post("/resume_memory_occupation", body)
    assert (answer.status, answer.json) == (200, None)


def unpause(simulator):
    assert simulator.post("/continue_generation", {}).status == 200


def dies_of(simulator, path, body=TAGS):
    """The call gets no answer and the whole tree is gone."""
    with pytest.raises(OSError, match=r"closed connection|reset"):
        simulator.post(path, body)
    assert simulator.ended() == -signal.SIGKILL
    eventually(lambda: not simulator.pids(), "no process of it is left")
    return simulator.output


def test_a_wake_with_backup_leaves_answers_as_they_were(sleeper, ledger):
    simulator = sleeper("--enable-weights-cpu-backup")
    said = simulator.says()
    assert ledger.used("0") == 82 * MiB
    pause(simulator)
    release(simulator)
    assert ledger.used("0") == 2 * MiB
    resume(simulator)
    unpause(simulator)
    assert simulator.says() == said
    assert ledger.used("0") == 82 * MiB


def test_without_backup_a_wake_is_garbage_until_the_weights_are_reloaded(sleeper):
    simulator = sleeper("--served-model-name", "nice")
    said = simulator.says()
    pause(simulator)
    release(simulator)
    resume(simulator)
    unpause(simulator)
    assert simulator.says() == "!!!!!!!!"
    reload = simulator.post("/update_weights_from_disk", {"model_path": "some/model", "load_format": "auto"})
    assert reload.json["success"] is True
    assert simulator.says() == said


@pytest.mark.thorough
def test_a_reload_takes_other_weights_and_overwrites_the_served_name(start):
    simulator = start("--served-model-name", "nice")
    assert simulator.get("/v1/models").json["data"][0]["id"] == "nice"
    refused = simulator.post("/update_weights_from_disk", {"model_path": "/no/such/place"})
    assert (refused.status, refused.json["success"]) == (400, False)
    assert simulator.says().startswith("some/model: ")
    simulator.post("/update_weights_from_disk", {"model_path": "another/model"})
    assert simulator.says().startswith("another/model: ")
    assert simulator.get("/v1/models").json["data"][0]["id"] == "another/model"


@pytest.mark.thorough
def test_the_kv_cache_alone_can_be_given_up(sleeper, ledger):
    simulator = sleeper()
    said = simulator.says()
    pause(simulator)
    release(simulator, {"tags": ["kv_cache"]})
    assert ledger.used("0") == 62 * MiB
    resume(simulator, {"tags": ["kv_cache"]})
    unpause(simulator)
    assert simulator.says() == said


@pytest.mark.thorough
def test_two_models_take_turns_on_one_gpu(sleeper, ledger):
    first = sleeper()
    pause(first)
    release(first)
    second = sleeper("--model-path", "other/model")
    assert ledger.used("0") == 84 * MiB
    pause(second)
    release(second)
    resume(first)
    assert ledger.used("0") == 84 * MiB


def test_a_model_is_spread_over_its_gpus_one_scheduler_each(sleeper, ledger):
    simulator = sleeper("--gpus", "0,2", "--tp-size", 2)
    schedulers = sorted(simulator.pids("sim::scheduler"))
    assert [ledger.holders(gpu) for gpu in ("0", "1", "2")] == [
        {schedulers[0]: 41 * MiB},
        {},
        {schedulers[1]: 41 * MiB},
    ]
    pause(simulator)
    release(simulator)
    assert (ledger.used("0"), ledger.used("2")) == (MiB, MiB)
    resume(simulator)
    assert (ledger.used("0"), ledger.used("2")) == (41 * MiB, 41 * MiB)


@pytest.mark.thorough
def test_memory_may_be_free_only_some_time_after_the_answer(sleeper, ledger):
    simulator = sleeper("--release-lag", 0.3)
    pause(simulator)
    release(simulator)
    assert ledger.used("0") == 82 * MiB
    eventually(lambda: ledger.used("0") == 2 * MiB, "the memory is free")


def test_without_the_memory_saver_nothing_is_given_up(start, ledger, tmp_path):
    simulator = start("--ledger", tmp_path / "gpus", *SIZES)
    said = simulator.says()
    pause(simulator)
    release(simulator)
    release(simulator)
    resume(simulator)
    unpause(simulator)
    assert ledger.used("0") == 82 * MiB
    assert simulator.says() == said


def test_unknown_tags_are_accepted(simulator):
    release(simulator, {"tags": ["nonsense"]})
    resume(simulator, {"tags": ["nonsense"]})


@pytest.mark.parametrize("call", ["pause_generation", "continue_generation", "release_memory_occupation"])
def test_a_control_call_needs_a_json_body(call, simulator):
    assert simulator.post(f"/{call}").status == 400
    assert simulator.get("/ready").status == 200


def test_a_release_while_a_request_runs_kills_it(sleeper):
    simulator = sleeper()
    with simulator.open_stream(max_tokens=10_000, ignore_eos=True) as stream:
        stream.next()
        assert "only when server is idle" in dies_of(simulator, "/release_memory_occupation")


@pytest.mark.thorough
def test_a_release_while_frozen_requests_run_kills_it(sleeper):
    simulator = sleeper()
    with simulator.open_stream(max_tokens=10_000, ignore_eos=True) as stream:
        stream.next()
        simulator.post("/pause_generation", {"mode": "in_place"})
        dies_of(simulator, "/release_memory_occupation")


@pytest.mark.thorough
def test_a_second_release_kills_it(sleeper):
    simulator = sleeper()
    pause(simulator)
    release(simulator, {"tags": ["kv_cache"]})
    assert "cannot pause 'kv_cache'" in dies_of(simulator, "/release_memory_occupation")


@pytest.mark.thorough
def test_a_resume_of_what_was_not_released_kills_it(sleeper):
    assert "KeyError: 'kv_cache'" in dies_of(sleeper(), "/resume_memory_occupation")


def test_a_resume_without_memory_kills_it(sleeper, ledger):
    simulator = sleeper()
    pause(simulator)
    release(simulator)
    ledger.hold(1, start_time(1), "0", 50 * MiB)
    assert "torch.OutOfMemoryError: CUDA out of memory." in dies_of(simulator, "/resume_memory_occupation")


@pytest.mark.thorough
def test_a_request_while_memory_is_released_and_nothing_is_paused_kills_it(sleeper):
    simulator = sleeper()
    release(simulator)
    assert "illegal memory access" in dies_of(simulator, "/generate", {"text": "hi"})


@pytest.mark.thorough
def test_a_reload_into_released_weights_kills_it(sleeper):
    simulator = sleeper()
    pause(simulator)
    release(simulator)
    dies_of(simulator, "/update_weights_from_disk", {"model_path": "some/model"})


def test_a_start_without_memory_dies_while_loading(sleeper, ledger):
    ledger.hold(1, start_time(1), "0", 50 * MiB)
    simulator = sleeper(ready=False)
    assert simulator.ended() == -signal.SIGKILL
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 0.06 GiB" in simulator.output
    eventually(lambda: not simulator.pids(), "no process of it is left")


@pytest.mark.thorough
def test_a_killed_server_gives_its_memory_back(sleeper, ledger):
    simulator = sleeper()
    with pytest.raises(OutOfMemory):
        ledger.hold(1, start_time(1), "0", 50 * MiB)
    simulator.process.kill()
    eventually(lambda: ledger.used("0") == 0, "the memory is free")


QUESTION = {
    "input_ids": [11, 13, 17],
    "sampling_params": {"temperature": 0, "max_new_tokens": 2, "ignore_eos": True},
    "return_logprob": True,
    "logprob_start_len": 0,
    "top_logprobs_num": 2,
}


def logprobs(simulator):
    """What it answers to a question by token ids: logprobs of the prompt, tokens with logprobs, the likeliest ones."""
    meta = simulator.post("/generate", QUESTION).json["meta_info"]
    assert meta["input_token_logprobs"][0][0] is None
    assert [len(likeliest) for likeliest in meta["output_top_logprobs"]] == [2, 2]
    return [meta[name] for name in ("input_token_logprobs", "output_token_logprobs", "output_top_logprobs")]


@pytest.mark.parametrize("flags", [(), *thorough((("--enable-weights-cpu-backup",),))])
@pytest.mark.parametrize(("fault", "same"), [((), True), (("--fault", "wake-wrong"), False)])
def test_logprobs_depend_on_the_weights_and_with_wake_wrong_a_wake_changes_them_unseen(sleeper, flags, fault, same):
    simulator = sleeper(*flags, *fault)
    before = logprobs(simulator)
    pause(simulator)
    release(simulator)
    resume(simulator)
    if not flags:
        assert simulator.post("/update_weights_from_disk", {"model_path": "some/model"}).json["success"] is True
    unpause(simulator)
    assert (logprobs(simulator) == before) is same


def test_a_vector_of_token_ids_is_one_of_the_weights(sleeper):
    simulator = sleeper("--is-embedding")
    asked = {"input_ids": [11, 13, 17]}
    before = simulator.post("/encode", asked).json["embedding"]
    assert simulator.post("/encode", asked).json["embedding"] == before
    assert simulator.post("/encode", {"input_ids": [11, 13]}).json["embedding"] != before
