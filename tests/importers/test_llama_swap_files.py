"""Public configurations of llama-swap, rewritten: what is known of each, and what is said to have no equal."""

from hashlib import sha256
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "llama_swap"


LLAMA = "/home/bird/src/llama.cpp/build/bin/llama-server --host 127.0.0.1 --port {port} --ctx-size"
RUN = "docker run --init --rm --gpus all -p {port}:8000 -e TOKEN=<none> -v /srv/cache/:/root/.cache/ --name"

COMPOSE = "docker compose -p birds -f /srv/birds/compose.yaml --profile managed"

#: By file and model, what is known of it: the words of its command, and keys of it or of its engine.
FACTS = {
    "minimal": {"tiny": {"command": "llama-server --port {port} --model /weights/tiny-q4.gguf", "port": 0}},
    "macros": {
        "heron2-27b": {
            "command": f"{LLAMA} 8192 --n-gpu-layers 99 --temp 0.6 --top-p 0.95 --model /weights/heron-27b-q5.gguf",
            "served_names": ("Heron2:27b", "heron", "gpt-4o-mini"),
            "start_timeout": 300.0,
        },
        "heron2-27b-long": {
            "command": f"{LLAMA} 65536 --n-gpu-layers 99 --temp 0 --model /weights/heron-27b-q5.gguf",
            "served_names": ("Heron2:27b-long", "heron-long"),
        },
        "egret": {
            "command": f"{LLAMA} 8192 --n-gpu-layers 99 --model /weights/egret.gguf --samplers top_k;top_p;min_p",
            "served_names": ("egret",),
        },
    },
    "containers": {
        "plover-embed": {
            "command": f"{RUN} plover-{{port}} vllm/vllm-openai:v0.13.0 --model birds/plover-embed-l --port 8000 "
            '--hf_overrides {"dims":[256,512]}',
            "stop_command": "docker stop plover-{port}",
            "concurrency_limit": 256,
            "upstream_name": "birds/plover-embed-l",
        },
        "stork-3b": {
            "command": f"{RUN} stork-3b-{{port}} vllm/vllm-openai:v0.13.0 --model birds/stork-3b --speculative-config "
            '{"method": "ngram", "num_speculative_tokens": 5}',
            "stop_command": "docker stop stork-3b-{port}",
            "gpus": ("0",),
        },
        "stork-14b": {"gpus": ("2", "3"), "stop_command": "docker stop stork-14b", "start_timeout": 1200.0},
    },
    "fixed_ports": {
        "thinker": {
            "command": "llama-server --model /weights/thinker-32b.gguf --port 18881 --n-gpu-layers 99 "
            '--tensor-split 1,1 --chat-template-kwargs {"enable_thinking":false}',
            "port": 18881,
            "gpus": ("0", "1"),
        },
        "quick": {"port": 18883, "gpus": ("0", "1")},
        "boxed": {
            "command": "/opt/exl/bin/python /opt/exl/main.py --config /opt/exl/boxed.yml",
            "port": 8003,
            "gpus": ("0",),
            "stop_timeout": 25.0,
        },
    },
    "one_port": {
        "kiwi-1b": {
            "command": "/opt/kiwi app/llama-server -m /weights/kiwi 1b.gguf --port {port} --jinja",
            "port": 0,
            "start_timeout": 15.0,
        },
        "kiwi-3b": {"command": "/opt/kiwi app/llama-server -m /weights/kiwi-3b.gguf --port {port}", "port": 0},
        "kiwi-box": {"command": "podman run --rm -p 127.0.0.1:{port}:8080 kiwi:latest", "port": 0},
    },
    "compose": {
        "condor-flash": {
            "command": f"{COMPOSE} up --force-recreate condor",
            "stop_command": f"{COMPOSE} stop condor",
            "ready_path": "/v1/models",
            "port": 30000,
            "stop_timeout": 60.0,
            "preload": True,
            "pinned": True,
        }
    },
    "speech": {
        "speak-turbo": {
            "command": "python3 /srv/speak/server.py",
            "port": 8082,
            "ready_path": "/health",
            "concurrency_limit": 4,
            "env": {"SPEAK_DEVICE": "cuda", "SPEAK_PORT": "8082", "SPEAK_OPTIONS": "a=1,b=2"},
            "gpus": ("1",),
        },
        "speak-cpu": {
            "command": "env CUDA_VISIBLE_DEVICES= python3 /srv/speak/server.py --port {port}",
            "env": {"SPEAK_DEVICE": "cpu"},
            "gpus": ("0",),
        },
        "hear": {
            "command": "whisper-server --port {port} --request-path /v1/audio/transcriptions --inference-path ",
            "ready_path": "/",
            "stop_signal": "SIGINT",
            "stop_command": "",
        },
    },
    "variants": {
        "robin-4b": {
            "command": "env LD_LIBRARY_PATH=/opt/robin/lib /opt/robin/llama-server --port {port} "
            "--model /weights/robin-4b.gguf --fit on",
            "served_names": ("robin-4b", "robin-4b:think"),
            "strip_params": ("temperature", "top_p"),
            "set_params": {"stop": ["</s>"], "chat_template_kwargs": {"enable_thinking": False}},
            "pinned": True,
        }
    },
    "engines": {
        "wren-8b": {
            "engine": "vllm",
            "python": "/opt/vllm/bin/python",
            "model_path": "birds/wren-8b",
            "args": ("--max-model-len", "16384", "--tensor-parallel-size", "2"),
            "served_names": ("Wren-8B",),
            "upstream_name": "",
            "env": {"HF_HOME": "/srv/hf"},
            "gpus": ("0", "1"),
            "port": 0,
        },
        "wren-bnb": {
            "engine": "vllm",
            "python": "python3",
            "model_path": "birds/wren-bnb",
            "args": ("--enforce-eager",),
            "port": 8005,
        },
        "heron-sgl": {
            "engine": "sglang",
            "python": "/opt/sgl/bin/python",
            "model_path": "/weights/heron",
            "args": ("--context-length", "8192"),
            "served_names": ("heron-sgl", "heron"),
        },
        "wren-file": {"engine": "openai", "command": "vllm serve --config /etc/wren.yaml --port {port}"},
    },
    "elsewhere": {
        "here": {"served_names": ("here",)},
        "other-host-grebe": {
            "engine": "remote",
            "urls": ("http://192.168.1.23",),
            "served_names": ("other-host/grebe", "grebe"),
            "upstream_name": "grebe",
            "api_key_env": "BIRDS_KEY",
            "strip_params": ("top_k",),
            "set_params": {"temperature": 0.5},
        },
        "other-host-here": {"served_names": ("other-host/here",), "upstream_name": "here"},
        "second-heron": {"api_key_env": "SECOND_API_KEY", "served_names": ("second/heron", "heron")},
    },
}


def test_there_are_ten_files_and_something_is_known_of_each():
    assert {file.stem for file in FILES.iterdir()} == FACTS.keys()
    assert len(FACTS) >= 10


@pytest.mark.parametrize("name", FACTS)
def test_a_public_configuration_becomes_one_of_muxd(swap, name):
    config = swap.load((FILES / f"{name}.yaml").read_text(), f"{name}.yaml")
    assert [model.name for model in config.models] == list(FACTS[name])
    for model in config.models:
        options = model.engine_options
        for key, value in FACTS[name][model.name].items():
            found = getattr(model if hasattr(model, key) else options, key)
            found = " ".join(found) if key in ("command", "stop_command") else found
            assert found == value, f"{model.name}: {key}"
        if model.engine == "openai":
            assert model.sleep_level == 3
    assert str(config.proxy.listen) == "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("containers", ":12: groups.vectors: no equal: who may be awake together follows from what fits"),
        ("one_port", ":5: models.NAME.proxy: another model has this port, too: muxd chooses one for each (kiwi:1b"),
        ("compose", ":9: upstream.ignorePaths: no equal: there is no /upstream"),
        ("compose", ":4: logToStdout: no equal: muxd's log goes to stderr"),
        ("speech", ":18: models.speak-cpu.env: it sees no GPU; its turn is on GPU 0 as for others, see gpus"),
        ("speech", ":16: models.speak-cpu.unlisted: no equal: /v1/models lists every model"),
        ("speech", ":22: models.hear.checkEndpoint: no equal: a server is ready once it answers, here at /"),
        ("variants", ":8: models.robin-4b.description: no equal: /v1/models says what the model's server says"),
        ("variants", "models.robin-4b.filters.setParamsByID: no equal: set_params are those of the model"),
        ("variants", "models.robin-4b.filters.setParams: stream is left out: it is the client's to say"),
        ("variants", ":36: selectors: no equal: a request names its model"),
        (
            "engines",
            "models.NAME.cmd: muxd runs vllm itself: it sleeps where llama-swap ends it",
        ),
        ("elsewhere", ":11: models.away.proxy: the model is left out: its server is at away, and muxd starts none"),
        ("elsewhere", ":24: peers.second.apiKey: the key is not written: put it into muxd's environment as SECOND_API"),
        ("elsewhere", ":27: peers.cloud.proxy: owlet is left out: "),
    ],
)
def test_what_has_no_equal_is_said_by_name_and_line(swap, name, told):
    said = swap.remarks((FILES / f"{name}.yaml").read_text(), "config.yaml")
    assert [remark for remark in said if told in remark], said


def test_a_model_ends_after_its_ttl_or_that_of_all(swap):
    idle = {
        name: [
            rung for model in swap.load((FILES / f"{name}.yaml").read_text(), "c.yaml").models for rung in model.idle
        ]
        for name in ("fixed_ports", "macros", "compose")
    }
    assert idle["fixed_ports"] == [(600.0, 3), (300.0, 3)]
    assert set(idle["macros"]) == {(300.0, 3), (60.0, 3)}
    assert idle["compose"] == []


@pytest.mark.parametrize(("ttl", "idle"), [("ttl: 0", ()), ("ttl: -1", ((30.0, 3),)), ("unlisted: true", ((30.0, 3),))])
def test_a_model_without_a_ttl_has_that_of_all_and_one_of_zero_stays(swap, ttl, idle):
    text = f"globalTTL: 30\nmodels:\n  a:\n    cmd: server --port ${{PORT}}\n    {ttl}\n"
    (model,) = swap.load(text, "config.yaml").models
    assert tuple(model.idle) == idle


def test_a_pinned_model_has_no_ttl_and_that_is_said(swap):
    text = "models:\n  a:\n    cmd: server --port ${PORT}\n    ttl: 30\n"
    text += "groups:\n  forever:\n    persistent: true\n    members: [a]\n"
    (model,) = swap.load(text, "config.yaml").models
    assert (model.pinned, tuple(model.idle)) == (True, ())
    said = swap.remarks(text, "config.yaml")
    assert [remark for remark in said if ":4: models.a.ttl: no equal for a: it is pinned" in remark], said


def test_what_is_switched_off_is_not_missed(swap):
    said = swap.remarks((FILES / "compose.yaml").read_text(), "config.yaml")
    assert not [remark for remark in said if "ttl" in remark or "sendLoadingState" in remark]


def test_no_key_is_written_as_it_is(swap, tmp_path):
    config = swap.load((FILES / "elsewhere.yaml").read_text(), "config.yaml")
    assert [(key.name, key.secret_sha256) for key in config.keys] == [
        ("key-1", sha256(b"sk-not-a-secret").hexdigest()),
        ("key-2", sha256(b"sk-of-the-birds").hexdigest()),
    ]
    written = (tmp_path / "muxd.toml").read_text()
    assert "sk-" not in written, "neither clients' keys nor those of other hosts"
    assert 'secret_env = "BIRDS_KEY"' in written
