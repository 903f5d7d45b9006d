"""GET /metrics, by SGLang's names."""

from prometheus_client.parser import text_string_to_metric_families


def told(simulator):
    answer = simulator.get("/metrics")
    assert answer.status == 200
    return {s.name: s for family in text_string_to_metric_families(answer.text) for s in family.samples}


def test_without_the_flag_there_are_none(simulator):
    assert simulator.get("/metrics").status == 404


def test_what_was_asked_is_counted_and_outlasts_a_sleep(start):
    simulator = start("--enable-metrics", "--enable-memory-saver", "--served-model-name", "it", "--token-rate", "500")
    before = told(simulator)
    assert {name: sample.value for name, sample in before.items()} == {
        "sglang:num_running_reqs": 0,
        "sglang:num_queue_reqs": 0,
        "sglang:generation_tokens_total": 0,
        "sglang:num_requests_total": 0,
    }
    assert {sample.labels["model_name"] for sample in before.values()} == {"it"}
    assert simulator.chat(max_tokens=8, ignore_eos=True).status == 200
    simulator.post("/pause_generation", {})
    simulator.post("/release_memory_occupation", {})
    asleep = told(simulator)
    assert asleep["sglang:generation_tokens_total"].value == 8
    simulator.post("/resume_memory_occupation", {})
    simulator.post("/update_weights_from_disk", {"model_path": "some/model"})
    simulator.post("/continue_generation", {})
    assert told(simulator) == asleep
    assert simulator.chat(max_tokens=4, ignore_eos=True).status == 200
    assert told(simulator)["sglang:num_requests_total"].value == 2
    assert told(simulator)["sglang:generation_tokens_total"].value == 12


def test_what_runs_and_waits_is_shown(start):
    simulator = start("--enable-metrics", "--batch-slots", "1", "--token-rate", "20")
    with simulator.open_stream(max_tokens=1000, ignore_eos=True), simulator.open_generation():
        while simulator.loads() != (1, 1):
            pass
        now = told(simulator)
    assert (now["sglang:num_running_reqs"].value, now["sglang:num_queue_reqs"].value) == (1, 1)
