import os
from pathlib import Path

import pytest

from muxd.host.model_kinds import ModelKind
from muxd.host.search import FoundModel, Skipped, hub_cache, in_cache, in_folder

from .hub import index, model, sized

ENCODER = {"architectures": ["XLMRobertaModel"]}
MiB = 1 << 20


def found(findings):
    return [(finding.label, finding.model_path) for finding in findings if isinstance(finding, FoundModel)]


def skipped(findings):
    return {finding.label: finding.reason for finding in findings if isinstance(finding, Skipped)}


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({}, "/h/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/data/hf", "XDG_CACHE_HOME": "/x"}, "/data/hf/hub"),
        ({"HF_HOME": "~/hf"}, "/h/hf/hub"),
        ({"HF_HUB_CACHE": "/cache", "HF_HOME": "/data/hf"}, "/cache"),
        ({"HUGGINGFACE_HUB_CACHE": "/cache"}, "/cache"),
    ],
)
def test_the_cache_is_where_the_hubs_client_has_it(environ, cache):
    assert hub_cache({"HOME": "/h", **environ}) == Path(cache)


def test_a_model_of_the_cache_is_known_by_its_id(hub):
    snapshot = hub.add("Qwen/Qwen3-14B", {"model.safetensors": 5 * MiB})
    hub.add("gpt2", {"pytorch_model.bin": 3 * MiB}, {"architectures": ["GPT2LMHeadModel"]})
    gpt2, qwen = in_cache(hub.cache)
    assert (gpt2.label, gpt2.model_path, gpt2.size) == ("gpt2", "gpt2", 3 * MiB)
    assert qwen == FoundModel("Qwen/Qwen3-14B", "Qwen/Qwen3-14B", ModelKind.GENERATION, 5 * MiB, snapshot)


def test_a_revision_that_is_not_main_is_named_by_its_path(hub):
    snapshot = hub.add("org/a", main=False)
    assert found(in_cache(hub.cache)) == [("org/a", str(snapshot))]


def test_a_whole_revision_is_taken_where_that_of_main_is_not(hub):
    hub.add("org/a", {"model-00001-of-00002.safetensors": MiB}, revision="1" * 40)
    older = hub.add("org/a", {"model.safetensors": MiB}, revision="2" * 40, main=False)
    assert found(in_cache(hub.cache)) == [("org/a", str(older))]


def test_the_newest_revision_is_taken_where_none_is_main(hub):
    for number, age in (("1", 30), ("2", 10), ("3", 20)):
        os.utime(hub.add("org/a", revision=number * 40, main=False), (1000 - age, 1000 - age))
    (only,) = in_cache(hub.cache)
    assert only.folder.name == "2" * 40


def test_there_may_be_no_cache_at_all(tmp_path):
    assert in_cache(tmp_path / "none") == []


def test_a_cache_that_is_a_file_is_told(tmp_path):
    (tmp_path / "hub").touch()
    assert skipped(in_cache(tmp_path / "hub")) == {str(tmp_path / "hub"): "cannot be read: Not a directory"}


def test_everything_else_in_the_cache_is_skipped_with_the_reason(hub):
    hub.add("org/adapter", {}, None, adapter_config={"base_model_name_or_path": "Qwen/Qwen3-14B"})
    hub.add("org/nameless-adapter", {}, None, adapter_config=[])
    hub.add("org/pipeline", model_index={})
    hub.add("org/config-only", {})
    hub.add("org/gguf", {"q4.gguf": MiB})
    hub.add("org/no-config", config=None)
    hub.add("org/list", config=[1])
    hub.add("org/no-architecture", config={})
    hub.add("org/empty-architectures", config={"architectures": []})
    hub.add("org/odd-architectures", config={"architectures": [3]})
    hub.add("org/t5", config={"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True})
    hub.add("org/whisper", config={"architectures": ["WhisperForConditionalGeneration"]})
    hub.add("org/eagle", config={"architectures": ["LlamaForCausalLMEagle3"]})
    hub.add("org/reranker", config={"architectures": ["XLMRobertaForSequenceClassification"]})
    hub.add("org/vit", config={"architectures": ["ViTModel"]})
    for name in ("datasets--org--squad", "spaces--org--chat", "models--org--nothing", ".locks"):
        (hub.cache / name).mkdir()
    (hub.cache / "version.txt").touch()
    findings = in_cache(hub.cache)
    assert found(findings) == []
    assert skipped(findings) == {
        "org/adapter": "a LoRA adapter of Qwen/Qwen3-14B, not a whole model: it goes into a model's args, --lora-paths",
        "org/nameless-adapter": "a LoRA adapter, not a whole model: it goes into a model's args, --lora-paths",
        "org/pipeline": "a diffusion pipeline",
        "org/config-only": "no weights",
        "org/gguf": "only GGUF files, which are for llama.cpp; SGLang needs *.safetensors",
        "org/no-config": "no config.json",
        "org/list": "config.json is not a JSON object",
        "org/no-architecture": "config.json names no architecture",
        "org/empty-architectures": "config.json names no architecture",
        "org/odd-architectures": "config.json names no architecture",
        "org/t5": "T5ForConditionalGeneration is an encoder and a decoder, which SGLang does not serve",
        "org/whisper": "WhisperForConditionalGeneration is a speech model",
        "org/eagle": "LlamaForCausalLMEagle3 is a draft model for speculative decoding",
        "org/reranker": "XLMRobertaForSequenceClassification is a classifier or a reranker",
        "org/vit": "ViTModel is not known to generate text or embeddings; write it by hand if SGLang serves it",
        "org/squad": "a data set",
        "org/chat": "a space of the Hub",
        "org/nothing": "nothing was downloaded",
    }


@pytest.mark.parametrize(
    ("config", "files", "kind"),
    [
        ({"architectures": ["Qwen3MoeForCausalLM"]}, [], ModelKind.GENERATION),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, [], ModelKind.GENERATION),
        ({"architectures": ["InternVLChatModel"]}, [], ModelKind.GENERATION),
        (ENCODER, [], ModelKind.EMBEDDING),
        ({"architectures": ["Qwen3ForCausalLM"]}, ["modules"], ModelKind.EMBEDDING),
        ({"architectures": ["Qwen3ForCausalLM"]}, ["config_sentence_transformers"], ModelKind.EMBEDDING),
    ],
)
def test_generation_is_told_from_embedding(hub, config, files, kind):
    hub.add("org/a", config=config, **{file: [] for file in files})
    (only,) = in_cache(hub.cache)
    assert only.kind is kind


@pytest.mark.parametrize("content", [b"", b"{nope", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_a_config_that_is_no_json_object_is_no_more_than_a_reason(hub, content):
    snapshot = hub.add("org/a")
    (snapshot / "config.json").resolve().write_bytes(content)
    assert skipped(in_cache(hub.cache))["org/a"].startswith("config.json is not ")


def test_a_config_without_end_is_not_read(hub):
    snapshot = hub.add("org/a")
    sized((snapshot / "config.json").resolve(), 5 * MiB)
    assert skipped(in_cache(hub.cache)) == {"org/a": "config.json is larger than 4 MiB"}


# Weights


def test_only_the_files_that_the_index_names_count(hub):
    hub.add(
        "org/a",
        {"x.safetensors": MiB, "y.safetensors": MiB, "consolidated.safetensors": 2 * MiB, "model.bin": MiB},
        model__safetensors__index=index("x.safetensors", "y.safetensors", "x.safetensors"),
    )
    (only,) = in_cache(hub.cache)
    assert only.size == 2 * MiB


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({"model.safetensors": 2, "pytorch_model.bin": 9, "consolidated.safetensors": 9}, 2),
        ({"pytorch_model.bin": 2, "training_args.bin": 9, "optimizer.pt": 9}, 2),
        ({"consolidated.safetensors": 2}, 2),
        ({"model-00001-of-00002.safetensors": 2, "model-00002-of-00002.safetensors": 3}, 5),
    ],
)
def test_each_weight_counts_once(hub, files, size):
    hub.add("org/a", files)
    (only,) = in_cache(hub.cache)
    assert only.size == size


@pytest.mark.parametrize(
    ("files", "names", "reason"),
    [
        ({"x.safetensors": 1}, ["x.safetensors", "y.safetensors"], "1 of 2 weight files is missing, y.safetensors"),
        (
            {"x.safetensors": 1, "y.safetensors": 0},
            ["x.safetensors", "y.safetensors"],
            "1 of 2 weight files is missing, y.safetensors",
        ),
        (
            {"model-00002-of-00003.safetensors": 1},
            None,
            "2 of 3 weight files are missing, model-00001-of-00003.safetensors first",
        ),
        ({"model.safetensors": 0}, None, "1 of 1 weight files is missing, model.safetensors"),
    ],
)
def test_a_download_that_did_not_end_is_told(hub, files, names, reason):
    hub.add("org/a", files, model__safetensors__index=index(*names) if names else None)
    assert skipped(in_cache(hub.cache)) == {"org/a": f"a partial download: {reason}"}


def test_a_link_to_what_was_not_downloaded_is_no_file(hub):
    snapshot = hub.add("org/a", {"x.safetensors": 1}, model__safetensors__index=index("x.safetensors", "y.safetensors"))
    (snapshot / "y.safetensors").symlink_to("../../blobs/none")
    (snapshot / "model.bin").symlink_to("model.bin")
    assert skipped(in_cache(hub.cache)) == {
        "org/a": "a partial download: 1 of 2 weight files is missing, y.safetensors"
    }


def test_a_blob_that_is_still_incomplete_makes_the_whole_repository_so(hub):
    snapshot = hub.add("org/a")
    (snapshot.parents[1] / "blobs/abc.incomplete").touch()
    reason = "a partial download, or one under way; finish it with: hf download org/a"
    assert skipped(in_cache(hub.cache)) == {"org/a": reason}


@pytest.mark.parametrize("content", [{}, [], {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": "../x"}}])
def test_an_index_that_is_none_is_told(hub, content):
    hub.add("org/a", model__safetensors__index=content)
    assert skipped(in_cache(hub.cache)) == {"org/a": "model.safetensors.index.json is not an index of weights"}


# Folders


def test_models_are_found_at_and_below_a_folder(tmp_path):
    model(tmp_path / "models/b")
    model(tmp_path / "models/ORG/Model.A")
    assert found(in_folder(tmp_path / "models")) == [
        ("b", str(tmp_path / "models/b")),
        ("Model.A", str(tmp_path / "models/ORG/Model.A")),
    ]
    assert found(in_folder(tmp_path / "models/b")) == [("b", str(tmp_path / "models/b"))]


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    model(tmp_path / "models/b")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert found(in_folder(Path("../models"))) == [("b", str(tmp_path / "models/b"))]


def test_links_are_followed_and_never_for_ever(tmp_path):
    model(tmp_path / "elsewhere/a")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/to-it").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models/up").symlink_to("..")
    (tmp_path / "models/self").symlink_to("self")
    (tmp_path / "models/gone").symlink_to("nowhere")
    findings = list(in_folder(tmp_path / "models"))
    assert found(findings) == [("a", str(tmp_path / "models/to-it/a"))]
    assert skipped(findings) == {}


def test_the_parts_of_a_model_are_not_models(tmp_path):
    model(model(tmp_path / "models/whole") / "encoder")
    model(tmp_path / "models/pipeline/unet")
    (tmp_path / "models/pipeline/model_index.json").write_text("{}")
    findings = list(in_folder(tmp_path / "models"))
    assert found(findings) == [("whole", str(tmp_path / "models/whole"))]
    assert skipped(findings) == {str(tmp_path / "models/pipeline"): "a diffusion pipeline"}


def test_a_stray_config_does_not_hide_what_is_below(tmp_path):
    model(tmp_path / "models", {}, config={"theme": "dark"})
    model(tmp_path / "models/a")
    findings = list(in_folder(tmp_path / "models"))
    assert found(findings) == [("a", str(tmp_path / "models/a"))]
    assert skipped(findings) == {str(tmp_path / "models"): "config.json names no architecture"}


def test_a_cache_below_a_folder_is_read_as_one_by_its_paths(hub, tmp_path):
    snapshot = hub.add("Qwen/Qwen3-14B")
    (hub.cache / "datasets--org--squad").mkdir()
    findings = list(in_folder(tmp_path))
    assert found(findings) == [("Qwen/Qwen3-14B", str(snapshot))]
    assert skipped(findings) == {"org/squad": "a data set"}


def test_a_download_into_a_folder_that_did_not_end_is_told(tmp_path):
    unfinished = model(tmp_path / "a") / ".cache/huggingface/download"
    unfinished.mkdir(parents=True)
    (unfinished / "x.incomplete").touch()
    assert skipped(in_folder(tmp_path)) == {str(tmp_path / "a"): "a partial download, or one under way"}


def test_a_clone_without_the_large_files_is_told(tmp_path):
    model(tmp_path / "a")
    (tmp_path / "a/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    reason = "model.safetensors is a pointer of git-lfs, not the file; run: git lfs pull"
    assert skipped(in_folder(tmp_path)) == {str(tmp_path / "a"): reason}


@pytest.mark.parametrize("name", [b"bad\xff", b"new\nline"])
def test_a_path_that_no_configuration_can_hold_is_told(tmp_path, name):
    model(tmp_path / os.fsdecode(name))
    (reason,) = skipped(in_folder(tmp_path)).values()
    assert reason == "its path has characters that a configuration cannot hold; rename it"


def test_a_folder_too_deep_is_not_searched(tmp_path):
    model(tmp_path / "1/2/3/4/5/deep-enough")
    model(tmp_path / "1/2/3/4/5/6/too-deep")
    assert [label for label, _ in found(in_folder(tmp_path))] == ["deep-enough"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(hub, tmp_path):
    closed = [hub.add("org/a").parents[1], model(tmp_path / "models/b"), tmp_path / "models/c"]
    closed[2].mkdir()
    for folder in closed:
        folder.chmod(0)
    reasons = skipped(in_cache(hub.cache)) | skipped(in_folder(tmp_path / "models"))
    for folder in closed:
        folder.chmod(0o700)
    assert reasons == dict.fromkeys(
        ["org/a", str(tmp_path / "models/b"), str(tmp_path / "models/c")], "cannot be read: Permission denied"
    )
