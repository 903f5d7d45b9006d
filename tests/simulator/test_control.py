"""Health, keys, pause and abort."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import eventually


def test_before_it_is_warm_it_answers_503(start):
    simulator = start("--pace", "0.4", ready=False)

    def statuses():
        try:
            return [simulator.get(path).status for path in ("/ready", "/health", "/ping")]
        except OSError:
            return None

    assert eventually(statuses, "the port is bound") == [503, 503, 503]
    eventually(lambda: statuses() == [200, 200, 200], "it is warm")


def test_while_paused_it_is_alive_and_not_ready_and_holds_requests(simulator):
    said = simulator.says()
    simulator.post("/pause_generation", {})
    assert (simulator.get("/ready").status, simulator.get("/ping").status) == (503, 200)
    assert simulator.get("/v1/models").status == 200
    with ThreadPoolExecutor() as pool:
        held = pool.submit(simulator.says)
        assert simulator.loads() == (0, 0)
        simulator.post("/continue_generation", {})
        assert held.result() == said
    assert simulator.get("/ready").status == 200


def test_health_while_paused_fails_after_a_while_and_makes_it_unhealthy(simulator):
    assert simulator.get("/health").status == 200
    simulator.post("/pause_generation", {})
    assert simulator.get("/health").status == 503
    assert simulator.get("/ping").status == 503
    simulator.post("/continue_generation", {})
    assert simulator.get("/ready").status == 503
    assert simulator.get("/health").status == 200
    assert simulator.get("/ready").status == 200


def test_health_is_a_flag_where_the_environment_says_so(start):
    simulator = start(SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION="false")
    simulator.post("/pause_generation", {})
    assert simulator.get("/health").status == 200
    assert simulator.get("/health_generate").status == 503


def test_a_pause_ends_what_runs_with_what_it_has(simulator):
    with simulator.open_stream(max_tokens=30_000, ignore_eos=True) as stream, ThreadPoolExecutor() as pool:
        whole = pool.submit(simulator.chat, max_tokens=30_000, ignore_eos=True)
        eventually(lambda: simulator.loads() == (2, 0), "both run")
        assert simulator.post("/pause_generation", {}).json["status"] == "ok"
        assert simulator.loads() == (0, 0)
        *_, last, done = stream.rest()
        assert (last["choices"][0]["finish_reason"], done) == ("abort", "[DONE]")
        answer = whole.result()
        assert (answer.status, answer.json["choices"][0]["finish_reason"]) == (200, "abort")
    simulator.post("/continue_generation", {})


def test_a_pause_in_place_freezes_and_goes_on(simulator):
    with simulator.open_stream(max_tokens=200, ignore_eos=True) as stream:
        stream.next()
        simulator.post("/pause_generation", {"mode": "in_place"})
        assert simulator.loads() == (1, 0)
        simulator.post("/continue_generation", {})
        *_, last, _ = stream.rest()
        assert last["choices"][0]["finish_reason"] == "length"


def test_an_unknown_pause_is_refused(simulator):
    assert simulator.post("/pause_generation", {"mode": "nicely"}).status == 400


def test_requests_are_aborted_by_an_id_that_exists_and_all_that_begin_with_it(simulator):
    wishes = [{"rid": rid, "max_tokens": 30_000, "ignore_eos": True} for rid in ("job", "job-2", "other")]
    one, two, three = (simulator.open_stream(**wish) for wish in wishes)
    eventually(lambda: simulator.loads() == (3, 0), "all run")
    simulator.post("/abort_request", {"rid": "jo"})
    assert simulator.loads() == (3, 0)
    simulator.post("/abort_request", {"rid": "job"})
    for stream in (one, two):
        assert stream.rest()[-2]["choices"][0]["finish_reason"] == "abort"
    simulator.post("/abort_request", {"abort_all": True})
    assert three.rest()[-2]["choices"][0]["finish_reason"] == "abort"
    for stream in (one, two, three):
        stream.close()


def test_the_cache_is_flushed_only_when_idle(simulator):
    assert simulator.post("/flush_cache").status == 200
    with simulator.open_stream(max_tokens=30_000, ignore_eos=True) as stream:
        stream.next()
        assert simulator.post("/flush_cache").status == 400


@pytest.mark.parametrize("flags", [["--admin-api-key", "boss"], ["--config"]])
def test_an_admin_key_alone_guards_the_control_routes_only(flags, start, tmp_path):
    if flags == ["--config"]:
        (tmp_path / "server.yaml").write_text('admin_api_key: "boss"\n')
        flags = ["--config", tmp_path / "server.yaml"]
    simulator = start(*flags)
    assert simulator.chat().status == 200
    assert simulator.post("/pause_generation", {}).json == {"error": "Unauthorized"}
    assert simulator.post("/pause_generation", {}, key="wrong").status == 401
    assert simulator.post("/pause_generation", {}, key="boss").status == 200


def test_with_both_keys_each_opens_its_own_routes(start):
    simulator = start("--admin-api-key", "boss", "--api-key", "public")
    assert [simulator.get("/v1/models", key=key).status for key in (None, "boss", "public")] == [401, 401, 200]
    assert [simulator.get("/ping", key=key).status for key in (None, "boss", "public")] == [401, 401, 200]
    assert [simulator.post("/flush_cache", key=key).status for key in (None, "boss", "public")] == [401, 200, 401]
    assert (simulator.get("/ready").status, simulator.get("/health").status) == (200, 200)
