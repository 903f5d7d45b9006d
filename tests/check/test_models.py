"""What `muxd check` says of the models of a configuration."""

import json

import pytest

from muxd.engines.observed_server import ObservedServer
from muxd.host.model_kinds import Unreadable, config_of
from tests.host.hub import Hub
from tests.unprivileged import closed

MiB = 1 << 20


def test_a_whole_folder_is_told_with_its_size(told, folder):
    folder()
    assert told("model_path = './models/qwen'") == [("ok", "models/qwen, 3.0 MiB on GPU 0; level 2")]
    (told_of_1,) = told("model_path = './models/qwen'\nsleep_level = 1")
    assert told_of_1[1].startswith("models/qwen, 3.0 MiB on GPU 0; level 1 takes as much host RAM (of ")


PINNED = """
[models.a]
engine = "simulator"
pinned = true
memory = {{ weights = "30GiB", kv = "{kv}GiB" }}
[models.b]
engine = "simulator"
memory = {{ weights = "30GiB", kv = "10GiB" }}
"""
NO_ROOM = "muxd.toml:6: GPU 0 has no room for it beside a, which leaves for nobody (pinned): "
REMEDY = "; remove pinned there, or give one of them other gpus, or sizes in memory that fit"


@pytest.mark.parametrize(
    ("kv", "why"),
    [
        (20, "together they need 90.0 GiB of 80.0 GiB"),
        (0, "one of them has no sizes, and needs the GPU to itself"),
        (10, ""),
    ],
)
def test_a_model_that_pinned_ones_leave_no_room_for_is_wrong_with_the_line(report, kv, why):
    status, lines = report(PINNED.format(kv=kv))
    told = [(mark, text) for mark, subject, text in lines if subject == "b" and "pinned" in text]
    assert told == ([("WRONG", f"{NO_ROOM}{why}{REMEDY}")] if why else [])
    assert status == (2 if why else 0)


LEVEL_0 = "sleep_level = 0\nmemory = { weights = '30GiB'"


def test_level_0_without_the_size_of_its_cache_is_told_to_be_of_no_use(told, folder):
    folder()
    ((mark, text),) = told(f"model_path = './models/qwen'\n{LEVEL_0} }}")
    assert (mark, text.partition(";")[2]) == ("warn", " give sizes in memory, of kv too, or use sleep_level = 1 or 2")
    assert text.startswith("muxd.toml:6: sleeps at level 0, and without sizes it has its GPU to itself")
    assert told(f"model_path = './models/qwen'\n{LEVEL_0}, kv = '10GiB' }}")[0][0] == "ok"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config.json": None}, "no config.json"),
        ({"config.json": "{"}, "config.json is not JSON"),
        ({"config.json": "{}"}, "config.json names no architecture"),
        ({"model.safetensors": None}, "no weights"),
        ({"model.safetensors": 0}, "a partial download: 1 of 1 weight files is missing, model.safetensors"),
        (
            {"model.safetensors.index.json": json.dumps({"weight_map": {"x": "gone.safetensors"}})},
            "a partial download: 1 of 1 weight files is missing, gone.safetensors",
        ),
        (
            {"config.json": None, "model.safetensors": None, "q.gguf": 5},
            "only GGUF files, which are for llama.cpp; SGLang needs *.safetensors",
        ),
        (
            {"model.safetensors": None, "q.gguf": 5},
            "only GGUF files, which are for llama.cpp; SGLang needs *.safetensors",
        ),
    ],
)
def test_a_folder_that_sglang_cannot_load_is_told_with_its_line(told, folder, files, why):
    folder(**files)
    ((mark, text),) = told("model_path = './models/qwen'")
    remedy = "; name a folder with a whole model, or download it again (hf download)"
    assert (mark, text) == ("WRONG", f"muxd.toml:5: models/qwen: {why}{'' if ';' in why else remedy}")


def a_tensor(size):
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [size], "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode()


def test_weights_that_are_cut_off_are_told(told, folder):
    file = folder() / "model.safetensors"
    file.write_bytes(a_tensor(900) + b"x" * 900)
    assert told("model_path = './models/qwen'")[0][0] == "ok"
    for length in (1000, 50, 3):
        file.write_bytes((a_tensor(2_000_000) + b"x" * 1000)[:length])
        ((mark, text),) = told("model_path = './models/qwen'")
        assert mark == "WRONG"
        assert f"model.safetensors is cut off: it has {length} bytes, and its header says " in text


@pytest.mark.parametrize("place", ["models/qwen", "models/snapshots/0abc"])
def test_a_folder_around_a_models_is_told_with_the_models(told, folder, place):
    folder(place)
    text = f"muxd.toml:5: models: no config.json, but a model is in {place}: give that"
    assert told("model_path = './models'") == [("WRONG", text)]


def test_what_this_user_may_not_read_may_be_whole(told, folder, tmp_path, monkeypatch):
    with closed(folder() / "config.json"), pytest.raises(Unreadable, match=r"config\.json cannot be read"):
        config_of(tmp_path / "models/qwen")

    def refuse(folder):
        raise Unreadable("config.json cannot be read: Permission denied")

    monkeypatch.setattr("muxd.check.models.config_of", refuse)
    ((mark, text),) = told("model_path = './models/qwen'")
    assert (mark, "config.json cannot be read: Permission denied" in text) == ("warn", True)


def test_weights_are_not_missed_where_none_are_read(told, folder):
    folder(**{"model.safetensors": None})
    assert told("model_path = './models/qwen'\nargs = ['--load-format=dummy']")[0][0] == "ok"


def test_a_gguf_file_is_not_for_sglang(told, tmp_path):
    (tmp_path / "q.gguf").touch()
    ((mark, text),) = told("model_path = './q.gguf'")
    assert (mark, "q.gguf is GGUF, which is for llama.cpp" in text) == ("warn", True)


def test_a_folder_that_looks_like_a_hub_id_is_asked_about(told, folder):
    folder()
    assert told("model_path = 'models/qwen'") == [
        (
            "warn",
            "muxd.toml:5: models/qwen is taken for a Hub id, and a folder of that name is here: "
            'write "./models/qwen", if it is meant',
        )
    ]


def test_a_model_of_the_hub_is_looked_up_where_its_worker_will(told, tmp_path):
    hub = Hub(tmp_path / "hub")
    hub.add("org/whole", {"model.safetensors": 5 * MiB}, {"architectures": ["Strange"]})
    env = f"env = {{ HF_HUB_CACHE = '{hub.cache}' }}\n"
    assert told(f"model_path = 'org/whole'\n{env}")[0] == (
        "ok",
        "org/whole in the Hub's cache, 5.0 MiB on GPU 0; level 2",
    )
    assert told(f"model_path = 'org/gone'\n{env}")[0][0] == "ok"
    offline = env.replace("}", ", HF_HUB_OFFLINE = '1' }")
    ((mark, text),) = told(f"model_path = 'org/gone'\n{offline}")
    assert (mark, "HF_HUB_OFFLINE is set" in text) == ("warn", True)


def test_a_home_that_nobody_expands_is_told(told):
    assert told("model_path = 'org/a'\nenv = { HF_HOME = '~/hf' }") == [
        ("warn", 'muxd.toml:6: HF_HOME is "~/hf" to the worker, nothing is expanded; write the path in full')
    ]


def test_an_argument_that_nobody_expands_is_told(told):
    for args in ("['--chat-template', '~/t.jinja']", "['--chat-template=~/t.jinja']"):
        ((mark, text),) = told(f"model_path = 'org/a'\nargs = {args}")
        assert (mark, "nothing is expanded; write the path in full" in text) == ("warn", True)


def test_weights_larger_than_the_gpu_are_wrong_where_that_is_certain(told, folder):
    folder()
    told_of = "muxd.toml:5: its weights have 3.0 MiB, GPU 0 has 0.0 MiB"
    path = "gpus = [0]\nmodel_path = './models/qwen'"
    certain = (
        "muxd.toml:5: its weights alone need 2.8 MiB, GPU 0 has 0.0 MiB: it can never be loaded; give it more gpus"
    )
    certain += ", or a smaller model"
    assert told(path, gpus=(0,)) == [("WRONG", certain)]
    for args in ("['--quantization', 'fp8']", "['--json-model-override-args', '{}']"):
        assert told(f"{path}\nargs = {args}", gpus=(0,)) == [("warn", f"{told_of}; give it more gpus")]
    assert told(f"{path}\nargs = ['--cpu-offload-gb', '9']", gpus=(0,))[0][0] == "ok"


class SeenAlways(dict[str, ObservedServer]):
    """Every script was seen, on GPU 5."""

    def get(self, digest, default=None):
        return ObservedServer(port=30001, model="o/a", gpus=("5",))

    def __contains__(self, digest):
        return True


def test_the_gpu_that_a_script_was_seen_on_and_that_is_not_there_is_told_with_its_line(
    report, interpreter, tmp_path, monkeypatch
):
    interpreter()
    server = "python -m sglang.launch_server --model-path o/a --port 30001"
    (tmp_path / "a.sh").write_text(f"export CUDA_VISIBLE_DEVICES=5\n{server}\n")
    monkeypatch.setattr("muxd.launchers.observed_scripts.seen_before", lambda _: SeenAlways())
    _, lines = report("[models.a]\nscript = './a.sh'", gpus=(140,))
    assert [line for line in lines if line[1] == "a"] == [
        ("WRONG", "a", "a.sh:2: GPU 5 is not there: there is 0, and its server was seen there")
    ]


def test_what_contradicts_what_was_seen_of_a_script_is_told(report, interpreter, tmp_path, monkeypatch):
    interpreter()
    (tmp_path / "a.sh").write_text(f"{tmp_path}/python -m sglang.launch_server --model-path o/a --port 30002\n")
    monkeypatch.setattr("muxd.launchers.observed_scripts.seen_before", lambda _: SeenAlways())
    _, lines = report("[models.a]\nscript = './a.sh'", gpus=(140,) * 6)
    assert [line for line in lines if line[1] == "a"] == [
        (
            "warn",
            "a",
            "a.sh:1: python serves o/a on a port that is found once it listens, GPU 5, level 3; "
            "its server listens on port 30001, and a.sh:1 says 30002",
        )
    ]


def test_a_script_is_told_as_it_was_read_with_what_is_missing(report, interpreter, tmp_path):
    python = interpreter("sglang/python3")
    script = tmp_path / "legacy.sh"
    script.write_text(f"MODEL_NAME=org/a\n{python} -m sglang.launch_server --model-path o/m --port 30009\n")
    _, lines = report("[models.legacy]\nscript = 'legacy.sh'\n")
    assert [line for line in lines if line[1] in ("legacy", "python")] == [
        ("ok", "python", "sglang/python3: SGLang 0.5.23, torch 2.9.1 (CUDA 12.9)"),
        (
            "ok",
            "legacy",
            "legacy.sh:2: sglang/python3 serves org/a on port 30009, GPU 0 until it was seen once, level 3",
        ),
    ]
    python.unlink()
    _, lines = report("[models.legacy]\nscript = 'legacy.sh'\n")
    assert ("warn", "legacy", "legacy.sh:2: sglang/python3 is not there; correct the script") in lines


@pytest.mark.parametrize("host", [True, False])
def test_what_a_script_should_not_do_is_told_with_its_line(report, interpreter, tmp_path, host):
    python = interpreter("sglang/python3")
    server = f"{python} -m sglang.launch_server --model-path /m --port 30009"
    (tmp_path / "legacy.sh").write_text(f"MODEL_NAME=$(pick)\npkill -f sglang\n{server}\n")
    _, lines = report("[models.legacy]\nscript = 'legacy.sh'\n", host=host)
    told = [text for mark, subject, text in lines if (mark, subject) == ("warn", "legacy")]
    assert told[-2:] == [
        "legacy.sh:2 ends all processes of that kind on this host, the servers of other models among them; "
        "take it out: muxd ends what its script has started",
        "legacy.sh:1 does not say MODEL_NAME plainly, and clients call the model /m; "
        "write MODEL_NAME plainly, or served_names in its table",
    ]


def test_a_hub_id_that_may_be_meant_as_a_folder_says_how_that_is_written(told):
    assert (
        'downloads it from the Hub (a local folder is written "./models/qwen")'
        in told("model_path = 'models/qwen'")[0][1]
    )
    assert told("model_path = 'ckpt/phi'")[0][0] == "warn"
    mark, text = told("model_path = 'gpt2'")[0]
    assert (mark, '(a local folder is written "./gpt2")' in text) == ("ok", True)
    assert "local folder" not in told("model_path = 'Qwen/Qwen3-8B'")[0][1]


SIZES = "memory = { weights = '30GiB', kv = '5GiB' }"


@pytest.mark.parametrize(
    ("keys", "mark", "said"),
    [
        ("replicas = 3\ngpus = 'auto:2'", "WRONG", "each replica needs 2 GPUs to itself, and 2 of them fit on GPU"),
        (f"replicas = 9\ngpus = 'auto'\n{SIZES}", "WRONG", "each replica needs 35.0 GiB of one GPU, and 8 of them fit"),
        (
            f"max_replicas = 9\ngpus = 'auto'\n{SIZES}",
            "warn",
            ": max_replicas, 9, is never reached",
        ),
        (f"replicas = 8\ngpus = 'auto'\n{SIZES}", "ok", "any 1 of GPU 0, 1, 2, 3 for each of its 8 replicas"),
    ],
)
def test_how_many_replicas_fit_on_any_gpus_is_said(report, keys, mark, said):
    status, lines = report(f"simulated_gpus = 4\n[models.a]\nengine = 'simulator'\n{keys}\n", gpus=())
    ((found, text),) = [(m, text) for m, subject, text in lines if subject == "a"]
    assert (found, status) == (mark, 2 if mark == "WRONG" else 0)
    assert said in text
