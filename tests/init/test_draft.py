from pathlib import Path

import pytest

from muxd.config.names import MODEL_NAME
from muxd.gpus import GpuMemory
from muxd.host.model_kinds import ModelKind
from muxd.host.search import FoundModel
from muxd.init.draft import drafts

GiB = 1 << 30


def hub(label, size=GiB, kind=ModelKind.GENERATION):
    return FoundModel(label, label, kind, size, Path("/cache") / label)


def local(path, size=GiB):
    return FoundModel(Path(path).name, path, ModelKind.GENERATION, size, Path(path))


def gpus(*sizes):
    return [GpuMemory(str(index), "GPU", size * GiB, 0) for index, size in enumerate(sizes)]


def names(*found):
    return {draft.found.model_path: (draft.name, draft.served_names) for draft in drafts(found, [])}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Qwen/Qwen3-14B", "qwen3-14b"),
        ("Qwen/Qwen2.5_VL", "qwen2.5_vl"),
        ("org/_.Hidden-", "hidden"),
        ("org/Ünï cödé", "n-c-d"),
        ("org/日本", "model"),
        ("gpt2", "gpt2"),
    ],
)
def test_a_name_is_made_of_the_repositorys(label, name):
    assert names(hub(label)) == {label: (name, (label,) if label != name else ())}


def test_a_folder_is_served_by_its_own_name_too():
    assert names(local("/models/Llama-3"), local("/models/plain")) == {
        "/models/Llama-3": ("llama-3", ("Llama-3",)),
        "/models/plain": ("plain", ()),
    }


def test_two_that_would_be_called_the_same_get_different_names():
    assert names(hub("Qwen/Model"), hub("other/model"), hub("Other/MODEL"), local("/x/model"), local("/x/y/model")) == {
        "Qwen/Model": ("qwen-model", ("Qwen/Model",)),
        "other/model": ("other-model", ("other/model",)),
        "Other/MODEL": ("model-2", ("Other/MODEL",)),
        "/x/model": ("model", ()),
        "/x/y/model": ("y-model", ()),
    }


def test_no_name_is_what_clients_call_another_model():
    """The repository that has no organisation is called gpt2 by all clients."""
    assert names(hub("Org/GPT2"), hub("gpt2")) == {"Org/GPT2": ("org-gpt2", ("Org/GPT2",)), "gpt2": ("gpt2", ())}


def test_no_model_is_called_as_the_proxy_is():
    assert names(hub("org/muxd-proxy")) == {"org/muxd-proxy": ("org-muxd-proxy", ("org/muxd-proxy",))}


def test_a_thousand_of_one_name_are_all_legal_and_different():
    many = drafts([hub(f"org{number % 3}/{'Long' * 40}{'.' * number}") for number in range(1000)], [])
    made = {draft.name for draft in many}
    assert len(made) == 1000
    assert all(MODEL_NAME.fullmatch(name) and len(name) < 120 for name in made)


def test_the_same_files_are_one_model():
    one, other = hub("org/a"), FoundModel("org/a", "/cache/org/a", ModelKind.GENERATION, GiB, Path("/cache/org/a"))
    assert [draft.found for draft in drafts([one, other], [])] == [one]


def placed(gpus, *sizes):
    made = drafts([local(f"/models/{number}", round(size * GiB)) for number, size in enumerate(sizes)], gpus)
    return [(draft.gpus, draft.fits) for draft in made]


def test_without_a_gpu_the_first_one_is_written():
    assert placed([], 5000) == [(("0",), True)]


def test_one_gpu_has_all_models_and_too_large_ones_are_told():
    assert placed(gpus(80), 28, 64, 65) == [(("0",), True), (("0",), True), (("0",), False)]


def test_models_are_spread_over_the_gpus_that_can_hold_them():
    assert placed(gpus(80, 80), 10, 20, 5) == [(("0",), True), (("1",), True), (("0",), True)]
    assert placed(gpus(24, 80), 40, 40, 10) == [(("1",), True), (("1",), True), (("0",), True)]


def test_a_large_model_is_split_over_a_power_of_two_of_gpus():
    assert placed(gpus(80, 80, 80, 80), 100) == [(("0", "1"), True)]
    assert placed(gpus(80, 80, 80, 80), 150) == [(("0", "1", "2", "3"), True)]
    assert placed(gpus(80, 80, 80), 150) == [(("0", "1"), False)]
    assert placed(gpus(24, 80, 80), 100) == [(("1", "2"), True)]


def test_a_gpu_that_is_missing_from_the_count_is_not_named():
    assert placed([GpuMemory("3", "GPU", 80 * GiB, 0), GpuMemory("5", "GPU", 80 * GiB, 0)], 100) == [(("3", "5"), True)]


@pytest.mark.parametrize(("size", "weights"), [(1, 1), (GiB, 1), (GiB + 1, 2), (28 * GiB, 28)])
def test_weights_are_whole_gibibytes_rounded_up(size, weights):
    (draft,) = drafts([hub("a", size)], [])
    assert draft.weights == weights


def test_an_embedding_model_is_told_to_be_one():
    embedding, generation = drafts([hub("a", kind=ModelKind.EMBEDDING), hub("b")], [])
    assert (embedding.args, generation.args) == (("--is-embedding",), ())
