"""Where a request goes: to a worker, to the proxy itself, or nowhere."""

import pytest

from muxd.engines.openai.kind import OPENAI
from muxd.engines.sglang.kind import SGLANG
from muxd.proxy.answers import Refusal
from muxd.proxy.requests.request_info import BodyFormat
from muxd.proxy.requests.routes import LocalAnswer, LocalRequest, WorkerRequest, find
from tests.proxy.nameless import NAMELESS

from .asking import ask, form, part, send_form

IN_JSON = """
/v1/chat/completions /v1/completions /v1/embeddings /v1/classify /v1/score /v1/rerank /v1/responses /v1/tokenize
/v1/detokenize /v1/messages /v1/messages/count_tokens /v1/systemone /tokenize /detokenize /generate /encode /classify
/v1/decisions /api/chat /api/generate
""".split()  # noqa: SIM905 (as many literals, one a line, would read worse)

#: Every route of SGLang 0.5.23 that no client is to reach, by any method; those of its routers and of its gate too.
NEVER = """
/server_info /get_server_info /get_model_info /model_info /ready /ping /health_generate /metrics/x
/set_internal_state /dumper/x /flush_cache /add_external_corpus /remove_external_corpus /list_external_corpora
/hicache/storage-backend /hicache/storage-backend/clear /get_hicache_l3_cache_layout /start_profile /stop_profile
/set_trace_level /freeze_gc /start_expert_distribution_record /stop_expert_distribution_record
/dump_expert_distribution_record /update_weights_from_disk /init_weights_send_group_for_remote_instance
/send_weights_to_remote_instance /get_remote_instance_transfer_engine_info /remote_instance_transfer_engine_info
/init_weights_update_group /destroy_weights_update_group /update_weights_from_tensor /begin_weight_update
/end_weight_update /update_weights_from_distributed /update_weights_from_ipc /update_weight_version
/get_weights_by_name /release_memory_occupation /resume_memory_occupation /weights_checker /slow_down /pd_role_switch
/load_lora_adapter /load_lora_adapter_from_tensors /unload_lora_adapter /open_session /close_session
/configure_logging /abort_request /parse_function_call /separate_reasoning /pause_generation /continue_generation
/v1/loads /invocations /vertex_generate /v1/responses/resp_1 /v1/responses/resp_1/cancel /scale_elastic_ep
/is_scaling_elastic_ep /gate/activate /register_transfer_engine_info /get_transfer_engine_info /docs /redoc
/openapi.json
""".split()  # noqa: SIM905 (as many literals, one a line, would read worse)
ODD = """
/v1 /v1/ /v1/chat /v1/chat/completions%2f /v1/%2fcompletions /%2fv1/completions /v1/v1/completions
/v1/chat/completions%00 /v1/chat/../flush_cache /v1/chat/completions;x /V1/chat/completions /v1/completions%20
/v1/audio /v1/images /v1/images/edits /v2/embed /v1/v2/rerank /v2/chat/completions
/api /api/ /api/pull /api/push /api/create /api/delete /api/copy
/upstream /upstream/ /upstream/qwen /upstream/qwen/ /upstream//model_info /upstream/model_info
/upstream/qwen/server_info /upstream/qwen/get_server_info /upstream/qwen/model_info%2f
/upstream/qwen/model_info/../server_info
/upstream/qwen/../server_info /upstream/qwen/health /upstream/qwen/health_generate
/upstream/qwen/v1/responses/a/cancel /upstream/qwen/v1/responses/a%2fb
/upstream/qwen/v1/responses/..%2f..%2fserver_info /upstream/qwen/v1/responses/ /upstream/qwen/v1/chat/completions
/upstream/qwen/generate /upstream/qwen/model_info%0a /upstream/q%0awen/model_info /upstream/qwen/get_weights_by_name
/upstream/qwen/v1/models/qwen /upstream/qwen/metrics/x
""".split()  # noqa: SIM905 (as many literals, one a line, would read worse)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")


def to_worker(*args, **kwargs) -> WorkerRequest:
    found = find(ask(*args, **kwargs))
    assert isinstance(found, WorkerRequest)
    return found


def here(*args, **kwargs) -> LocalRequest:
    found = find(ask(*args, **kwargs))
    assert isinstance(found, LocalRequest)
    return found


def refused(request) -> Refusal:
    with pytest.raises(Refusal) as caught:
        find(request)
    return caught.value


@pytest.mark.parametrize("path", [*IN_JSON, "/rerank", "/api/embed", "/api/embeddings", "/v1/messages/count_tokens"])
def test_a_route_is_one_that_sglang_answers_by_whatever_path_it_is_asked(path):
    body = {"model": "qwen", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
    answered = frozenset().union(*SGLANG.capabilities.routes.values())
    for spelling in (path, f"{path}/?x=1"):
        assert to_worker(spelling.encode(), body).route in answered


@pytest.mark.parametrize("path", IN_JSON)
def test_every_route_that_names_a_model_in_json_goes_to_its_worker(path):
    found = to_worker(path.encode(), {"model": "qwen", "messages": [], "stream": False})
    assert (found.target, found.label, found.asked.model) == (path.encode(), path, "qwen")
    assert not found.asked.stream


#: Routes that other engines than SGLang answer.
OF_OTHERS = ["/v2/rerank", "/pooling", "/v1/audio/speech", "/v1/images/generations", "/v1/moderations"]


@pytest.mark.parametrize("path", OF_OTHERS)
def test_a_route_that_only_other_engines_answer_goes_to_their_workers(path):
    found = to_worker(path.encode(), {"model": "qwen", "input": "x"})
    assert (found.target, found.route, found.asked.model) == (path.encode(), path, "qwen")
    assert path not in frozenset().union(*SGLANG.capabilities.routes.values())
    assert path in OPENAI.capabilities.routes[""]


def test_rerank_is_found_where_other_servers_have_it():
    found = to_worker(b"/rerank?a=b", {"model": "qwen"})
    assert (found.target, found.label) == (b"/v1/rerank?a=b", "/rerank")


@pytest.mark.parametrize("path", [*NEVER, *ODD])
def test_nothing_else_does(path):
    for target in (path, f"{path}?x=/v1/completions", f"http://muxd{path}"):
        for method in METHODS:
            refusal = refused(ask(target.encode(), {"model": "qwen"}, method))
            assert (refusal.status, refusal.code) == (404, "route_not_found")


@pytest.mark.parametrize("path", NEVER)
def test_no_route_of_a_worker_can_be_posted_to_through_upstream(path):
    assert refused(ask(b"/upstream/qwen" + path.encode(), {"model": "qwen"})).status in (404, 405)


@pytest.mark.parametrize(
    "spelling",
    [
        b"/v1/%63ompletions",
        b"/v1/completions#part",
        b"http://muxd/v1/completions",
        b"/v1%2fcompletions",
    ],
)
def test_a_worker_sees_the_listed_path_however_the_client_spells_it(spelling):
    assert to_worker(spelling, {"model": "qwen"}).target == b"/v1/completions"


def test_a_worker_sees_the_query_as_it_was_sent():
    assert to_worker(b"/v1/completions?a=%41&&b", {"model": "m"}).target == b"/v1/completions?a=%41&&b"


@pytest.mark.parametrize("path", [*IN_JSON, "/v1/audio/transcriptions", "/api/show", "/rerank", "/v1/completions?x"])
def test_what_is_posted_to_takes_nothing_but_post(path):
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        refusal = refused(ask(path.encode(), {"model": "qwen"}, method))
        assert (refusal.status, refusal.code, refusal.headers) == (405, "method_not_allowed", ((b"allow", b"POST"),))


SPELT_OTHERWISE = {
    b"/v1/chat/completions/": b"/v1/chat/completions",
    b"//v1///chat//completions//": b"/v1/chat/completions",
    b"/chat/completions": b"/v1/chat/completions",
    b"/chat/completions/?a=//": b"/v1/chat/completions?a=//",
    b"/completions": b"/v1/completions",
    b"/embeddings": b"/v1/embeddings",
    b"/responses": b"/v1/responses",
    b"/messages": b"/v1/messages",
    b"/messages/count_tokens?beta=true": b"/v1/messages/count_tokens?beta=true",
    b"/rerank/": b"/v1/rerank",
    b"/v1/generate": b"/generate",
    b"/decisions": b"/v1/decisions",
    b"/tokenize": b"/tokenize",
    b"/v1/tokenize/": b"/v1/tokenize",
    b"/api//chat/": b"/api/chat",
}


@pytest.mark.parametrize(("spelling", "path"), SPELT_OTHERWISE.items())
def test_slashes_too_many_and_a_v1_more_or_less_mean_the_same_route(spelling, path):
    found = to_worker(spelling, {"model": "qwen", "messages": []})
    assert (found.target, found.asked.model) == (path, "qwen")
    assert found.label in (path.partition(b"?")[0].decode(), "/rerank")


@pytest.mark.parametrize("path", [b"/v1/v1/chat/completions", b"/v1/v1/models", b"//v1//v1/", b"/v1/v1/v1/embeddings"])
def test_a_base_url_with_a_v1_too_many_is_named(path):
    for method in ("GET", "POST"):
        assert "base_url has one /v1 too many" in refused(ask(path, {"model": "qwen"}, method)).message


@pytest.mark.parametrize(
    ("path", "near"),
    [
        (b"/v1/chat/completion", "POST /v1/chat/completions"),
        (b"/V1/Chat/Completions", "POST /v1/chat/completions"),
        (b"/v1/embedding", "POST /v1/embeddings"),
        (b"/openai/v1/chat/completions", "POST /v1/chat/completions"),
        (b"/v1/chat/completions/chat/completions", "POST /v1/chat/completions"),
        (b"/v1/api/chat", "POST /api/chat"),
        (b"/api/tag", "GET /api/tags"),
        (b"/v1/health", "GET /health"),
        (b"/api/embeding", "POST /api/embeddings"),
        (b"/healthz", "GET /health"),
        (b"/v1/chat", "POST /v1/chat/completions"),
        (b"/v2/models", "GET /v1/models"),
        (b"/v3/embedings", "POST /v1/embeddings"),
        (b"/chat", "POST /v1/chat/completions"),
        (b"/api/chats", "POST /api/chat"),
    ],
)
def test_a_path_that_is_not_there_is_told_the_nearest(path, near):
    assert refused(ask(path, {"model": "qwen"})).message.endswith(f"; the nearest is {near}")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (b"/v1/images/edits", "muxd does not pass on images: see GET /v1/models"),
        (b"/files", "muxd does not pass on files: "),
        (b"/api/pull", "models are added to and taken from muxd.toml"),
        (b"/api/blobs/sha256:0", "models are added to and taken from muxd.toml"),
        (b"/get_model_info", "is told at GET /upstream/NAME/model_info"),
        (b"/server_info", "is told at GET /upstream/NAME/model_info"),
        (b"/v1/get_server_info", "is told at GET /upstream/NAME/model_info"),
        (b"/health_generate", "muxd watches its models itself, and tells of itself at GET /health"),
        (b"/docs", "SGLang's own pages are not passed on"),
        (b"/v1", "there is nothing at /v1 itself: it is the base_url"),
    ],
)
def test_a_route_of_the_field_that_muxd_does_not_offer_is_named_as_that(path, words):
    message = refused(ask(path, {"model": "qwen"})).message
    assert words in message
    assert "nearest" not in message


def test_what_is_like_nothing_is_told_where_to_look():
    for path in (b"*", b"/" + b"v" * 100_000):
        assert refused(ask(path)).message.endswith("see GET /v1/models and POST /v1/chat/completions")


# What the proxy answers


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (b"/", LocalAnswer.ROOT),
        (b"/health", LocalAnswer.HEALTH),
        (b"/models", LocalAnswer.MODELS),
        (b"/v1/models?x=1", LocalAnswer.MODELS),
        (b"/v1/models", LocalAnswer.MODELS),
        (b"/api/tags", LocalAnswer.OLLAMA_TAGS),
        (b"/api/ps", LocalAnswer.OLLAMA_PS),
        (b"/api/version", LocalAnswer.OLLAMA_VERSION),
        (b"/metrics", LocalAnswer.METRICS),
    ],
)
def test_what_names_no_model_is_answered_here(path, what):
    for method in ("GET", "HEAD"):
        found = here(path, method=method)
        assert (found.what, found.label, found.asked) == (what, path.partition(b"?")[0].decode(), "")
    refusal = refused(ask(path, method="POST"))
    assert (refusal.status, refusal.headers) == (405, ((b"allow", b"GET"),))


@pytest.mark.parametrize("asked", [b"org/alpha", b"org%2Falpha"])
def test_one_model_is_shown_here_under_one_label(asked):
    for prefix in (b"/v1/models/", b"/models/", b"//v1/models//"):
        found = here(prefix + asked, method="GET")
        assert (found.what, found.label, found.asked) == (LocalAnswer.MODEL, "/v1/models/{id}", "org/alpha")


@pytest.mark.parametrize("path", [b"/v1/models/", b"//v1/models", b"/models/", b"/v1//models//?a"])
def test_the_list_of_models_is_found_with_slashes_too_many(path):
    assert here(path, method="GET") == LocalRequest(
        LocalAnswer.MODELS, "/models" if path == b"/models/" else "/v1/models"
    )


@pytest.mark.parametrize(
    "body", [{"model": "qwen"}, {"name": "qwen"}, {"model": "qwen", "name": ""}, {"model": "", "name": "qwen"}]
)
@pytest.mark.parametrize("more", [{}, {"verbose": True, "more": "x" * 70_000}], ids=["short", "long"])
def test_ollamas_show_is_answered_here_without_waking_the_model(body, more):
    body = body | more
    found = here(b"/api/show", body)
    assert (found.what, found.label, found.asked) == (LocalAnswer.OLLAMA_SHOW, "/api/show", "qwen")


@pytest.mark.parametrize(
    ("body", "code"), [(b"{", "invalid_json"), (b"[]", "invalid_model"), ({"model": 1}, "invalid_model")]
)
def test_a_show_of_nothing_is_a_bad_request(body, code):
    assert refused(ask(b"/api/show", body)).code == code


def test_a_websocket_is_refused_with_what_to_do_instead():
    refusal = refused(ask(b"/v1/realtime?model=x", method="GET"))
    assert (refusal.status, refusal.code) == (501, "websocket_not_supported")
    assert "POST /v1/audio/transcriptions" in refusal.message


def test_who_asks_for_a_stored_response_is_told_where_it_is():
    assert "GET /upstream/MODEL/v1/responses/resp_1" in refused(ask(b"/v1/responses/resp_1", method="GET")).message


# /upstream


@pytest.mark.parametrize(
    "path", ["/model_info", "/get_model_info", "/v1/models", "/v1/loads", "/metrics", "/ready", "/ping"]
)
@pytest.mark.parametrize("name", ["qwen", "Qwen/Qwen3-14B", "a/b/c", "Qwen%2FQwen3-14B", "v1", "metrics", "upstream"])
def test_what_only_reads_is_let_through_to_the_model_named(name, path):
    found = to_worker(f"/upstream/{name}{path}?x=%20".encode(), method="GET")
    assert (found.target, found.label) == (path.encode() + b"?x=%20", "/upstream/{name}" + path)
    assert (found.asked.model, found.asked.form) == (name.replace("%2F", "/"), BodyFormat.NOTHING)
    assert not found.asked.stream


def test_a_stored_response_is_read_from_its_model():
    found = to_worker(b"/upstream/Qwen/Qwen3-14B/v1/responses/resp_0a-9", method="GET")
    assert (found.target, found.asked.model) == (b"/v1/responses/resp_0a-9", "Qwen/Qwen3-14B")
    assert found.label == "/upstream/{name}/v1/responses/{id}"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_upstream_takes_nothing_but_get(method):
    refusal = refused(ask(b"/upstream/qwen/model_info", {"model": "qwen"}, method))
    assert (refusal.status, refusal.headers) == (405, ((b"allow", b"GET"),))


# The model and the stream


@pytest.mark.parametrize(
    ("body", "code"),
    [
        *NAMELESS,
        (b'{"stream": "yes", "model": "alpha", "x": ' + b"[" * 100_000, "invalid_json"),
    ],
)
@pytest.mark.parametrize("path", [b"/v1/completions", b"/api/chat", b"/v1/completions?x"])
def test_a_body_that_names_no_model_is_a_bad_request(path, body, code):
    refusal = refused(ask(path, body))
    assert (refusal.status, refusal.code) == (400, code)


def test_of_two_models_the_last_counts_however_its_key_is_written():
    assert to_worker(b"/v1/completions", b'{"model": "a", "model": "b"}').asked.model == "b"
    assert to_worker(b"/v1/completions", b'{"model": "a", "mod\\u0065l": "b"}').asked.model == "b"


@pytest.mark.parametrize(
    ("written", "streams"),
    [("true", True), ("false", False), ("null", False), ("1", True), ("0", False), ('"true"', True), ('"off"', False)],
)
def test_a_stream_is_what_the_worker_takes_for_one(written, streams):
    body = b'{"model": "a", "stream": %b}' % written.encode()
    assert bool(to_worker(b"/v1/completions", body).asked.stream) is streams
    assert bool(to_worker(b"/generate", body).asked.stream) is streams


EVENTS = """
/v1/chat/completions /v1/completions /v1/responses /v1/messages /generate
""".split()  # noqa: SIM905 (as many literals, one a line, would read worse)


@pytest.mark.parametrize("path", [*IN_JSON, "/rerank"])
def test_only_what_sglang_streams_in_events_is_taken_for_such_a_stream(path):
    for target in (path, f"{path}?x"):
        for stream, streams in ((True, path in EVENTS), ("yes", path in EVENTS), (False, False), (None, False)):
            body = {"model": "a", "messages": [], "stream": stream}
            assert to_worker(target.encode(), body).streams is streams


def test_ollamas_routes_stream_unless_they_are_told_not_to():
    for body, streams in (({}, True), ({"stream": True}, True), ({"stream": False}, False), ({"stream": 0}, False)):
        found = to_worker(b"/api/chat", {"model": "a", **body})
        assert (bool(found.asked.stream), found.asked.form) == (streams, BodyFormat.OLLAMA)


@pytest.mark.parametrize("path", [b"/generate", b"/encode", b"/classify", b"/v1/decisions"])
def test_where_a_body_has_no_place_for_the_model_a_header_names_it(path):
    header = ((b"X-Muxd-Model", b"qwen"),)
    assert to_worker(path, {"text": "x"}, headers=header).asked.model == "qwen"
    assert to_worker(path, {"text": "x", "stream": 1, "model": None}, headers=header).asked.model == "qwen"
    assert to_worker(path, {"model": "in the body"}, headers=header).asked.model == "in the body"
    nameless = to_worker(path, {"text": "x"}).asked
    assert (nameless.model, nameless.in_body) == ("", False)


def test_the_header_names_no_model_where_the_body_can():
    assert refused(ask(b"/v1/completions", {}, headers=((b"x-muxd-model", b"qwen"),))).code == "invalid_model"


def test_a_transcription_names_its_model_in_its_form():
    found = find(send_form(form(part("file", b"RIFF", "a.wav"), part("model", b"whisper"), part("stream", b"true"))))
    assert isinstance(found, WorkerRequest)
    assert (found.target, found.asked.model, found.asked.form) == (
        b"/v1/audio/transcriptions",
        "whisper",
        BodyFormat.MULTIPART,
    )
    assert found.asked.stream
    assert found.streams
