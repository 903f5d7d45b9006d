"""GPUs by number, by name, and as CUDA_VISIBLE_DEVICES leaves them; how many a server needs."""

from types import SimpleNamespace

import pynvml
import pytest

import muxd.nvml
from muxd.check.verb import check
from muxd.config import load_config, load_proxy_config
from muxd.config.flags import flag_of, parallel
from muxd.config.schema import GiB, GpuBudgets
from muxd.engines.sglang.engine import server_flags
from muxd.errors import ConfigError
from muxd.gpus import CannotAsk, GpuIdentity
from muxd.launchers.argv import visible_gpus
from muxd.members import members_of
from muxd.nvml import NvmlGpus, installed_gpus

REAL = '[models.a]\nmodel_path = "Qwen/Q"\npython = "/bin/sh"\n'
PRETEND = '[models.a]\nengine = "simulator"\n'
SLICE = "MIG-c6d4f1ef-2222"
UUID_3 = "GPU-00000000-0000-0000-0000-000000000003"
GPUS = [
    GpuIdentity("0", "GPU-5d5ba0d6-0000"),
    GpuIdentity("1", "GPU-8932f937-1111"),
    GpuIdentity("2", "GPU-divided", slices=(SLICE, "MIG-aaaa")),
    GpuIdentity(SLICE, SLICE, "MIG-GPU-divided/1/0"),
    GpuIdentity("MIG-aaaa", "MIG-aaaa", "MIG-GPU-divided/2/0"),
]


@pytest.fixture
def load(tmp_path, monkeypatch):
    def load(text, **environ):
        with monkeypatch.context() as patched:
            patched.setattr(muxd.nvml, "installed_gpus", lambda: GPUS)
            (tmp_path / "muxd.toml").write_text(text)
            return load_config(tmp_path / "muxd.toml", {"HOME": str(tmp_path), **environ})

    return load


def problems(load, text, **environ):
    with pytest.raises(ConfigError) as caught:
        load(text, **environ)
    return [problem.split(": ", 1)[1] for problem in caught.value.problems]


def test_a_gpu_is_named_by_its_uuid_or_the_beginning_of_it(load):
    (model,) = load(f'{REAL}gpus = ["GPU-8932f937-1111", "GPU-5d"]').models
    assert (model.gpus, visible_gpus(model)["CUDA_VISIBLE_DEVICES"]) == (("1", "0"), "1,0")
    (model,) = load(f'[defaults]\ngpus = ["GPU-89"]\n{REAL}').models
    assert model.gpus == ("1",)


@pytest.mark.parametrize("name", [SLICE, "MIG-c6", "MIG-GPU-divided/1/0"])
def test_a_slice_is_a_gpu_of_its_own_and_told_to_cuda_by_its_uuid(load, name):
    (model,) = load(f'{REAL}gpus = ["{name}"]').models
    assert (model.gpus, visible_gpus(model)["CUDA_VISIBLE_DEVICES"]) == ((SLICE,), SLICE)


def test_two_slices_of_one_card_are_two_gpus(load):
    (model,) = load(f'{REAL}gpus = ["{SLICE}", "MIG-aaaa"]').models
    assert (model.gpus, server_flags(model, 1)[-2:]) == ((SLICE, "MIG-aaaa"), ["--tp-size", "2"])


def test_models_that_name_one_card_by_index_and_uuid_share_it(load):
    first, second = load(f'{REAL}gpus = [1]\n[models.b]\nengine = "simulator"\ngpus = ["GPU-89"]').models
    assert first.gpus == second.gpus == ("1",)


def test_check_tells_of_models_that_name_one_card_by_index_and_uuid(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(muxd.nvml, "installed_gpus", lambda: GPUS)
    file = tmp_path / "muxd.toml"
    file.write_text(f'{REAL}gpus = [1]\n[models.b]\nengine = "simulator"\ngpus = [0, "GPU-89"]\n')
    assert check(file, {"HOME": str(tmp_path)}, host=False) == 2
    assert "muxd.toml:7: GPU-89 is the card that a names 1; give it one name in both" in capsys.readouterr().out
    file.write_text(f'{REAL}gpus = ["GPU-893"]\n[models.b]\nengine = "simulator"\ngpus = [0, "GPU-89"]\n')
    assert check(file, {"HOME": str(tmp_path)}, host=False) == 0


def test_one_card_by_two_names_in_one_model_is_told_at_its_line(load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(f'{REAL}gpus = [1, "GPU-89"]')
    text = "models.a.gpus: 1 and GPU-89 are the same GPU; name it once"
    assert caught.value.problems == [f"{tmp_path}/muxd.toml:4: {text}"]


def test_a_divided_card_is_no_gpu(load):
    (problem,) = problems(load, f'{REAL}gpus = ["GPU-div"]')
    assert problem == f"models.a.gpus: GPU-div is divided into MIG slices; name one of {SLICE}, MIG-aaaa"


def test_pretend_gpus_have_uuids(load):
    (model,) = load(f'{PRETEND}gpus = ["GPU-00000000-0000-0000-0000-000000000003"]').models
    assert model.gpus == ("3",)


@pytest.mark.parametrize("name", ["GPU-77", "MIG-77"])
def test_a_name_that_is_no_gpus_is_told_at_its_line(load, name):
    (problem,) = problems(load, f'{REAL}gpus = ["{name}"]')
    assert problem == f"models.a.gpus: {name} is none of the GPUs of this machine; give gpus, by number"


def test_who_runs_no_worker_asks_no_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(muxd.nvml, "installed_gpus", lambda: pytest.fail("asked"))
    (tmp_path / "muxd.toml").write_text(f'{REAL}gpus = ["GPU-1"]')
    assert load_proxy_config(tmp_path / "muxd.toml", {"HOME": str(tmp_path)}).models[0].name == "a"


# Any GPUs


@pytest.mark.parametrize(("gpus", "count"), [("auto", 1), ("auto:1", 1), ("auto:2", 2)])
def test_any_gpus_are_all_that_there_are_but_for_divided_cards(load, gpus, count):
    (model,) = load(f'{REAL}gpus = "{gpus}"').models
    assert (model.gpus, model.any_gpus, model.gpus_each) == (("0", "1", SLICE, "MIG-aaaa"), count, count)
    assert ("--tp-size" in server_flags(model, 1)) is (count > 1)


def test_any_gpus_are_of_those_that_muxd_was_given(load):
    config = load(f'{REAL}gpus = "auto"', CUDA_VISIBLE_DEVICES="3,5")
    assert (config.models[0].gpus, config.remarks) == (("3", "5"), ())


def test_where_nobody_tells_of_gpus_any_are_the_first(load, monkeypatch):
    monkeypatch.setattr("muxd.config.devices.Devices.there", lambda _: ())
    assert load(f'{REAL}gpus = "auto:3"').models[0].gpus == ("0", "1", "2")


@pytest.mark.parametrize("wanted", ['gpus = "auto"', 'script = "a.sh"'])
def test_where_nobody_tells_of_gpus_those_hold_that_the_configuration_gives(load, monkeypatch, tmp_path, wanted):
    monkeypatch.setattr("muxd.config.devices.Devices.there", lambda _: ())
    (tmp_path / "a.sh").write_text("./serve\n")
    text = f'[gpus]\nmemory = {{ 0 = "80GiB", 03 = "80GiB" }}\n[models.a]\n{wanted}\n'
    text += "" if "script" in wanted else "model_path = 'o/a'\n"
    assert load(text).models[0].gpus == ("0", "3")


def test_of_pretend_gpus_there_are_as_many_as_muxd_is_told(load):
    (model,) = load(f'[muxd]\nsimulated_gpus = 4\n[defaults]\ngpus = "auto:2"\n{PRETEND}').models
    assert (model.gpus, model.any_gpus) == (("0", "1", "2", "3"), 2)
    assert load(f'{PRETEND}gpus = "auto"').models[0].gpus == ("0",)


def test_of_replicas_each_has_any_of_them(load):
    text = f'[muxd]\nsimulated_gpus = 4\n{PRETEND}gpus = "auto:2"\nreplicas = 2'
    (model,) = load(text).models
    assert (model.gpus, model.any_gpus, model.gpus_each) == (("0", "1", "2", "3"), 2, 2)
    assert [(m.model.gpus, m.model.any_gpus) for m in members_of(model)] == [(model.gpus, 2)] * 2 + [((), 0)]


@pytest.mark.parametrize(("text", "problem"), [
    (f'{REAL}gpus = "auto:0"',
     'models.a.gpus: "auto:0" is not a list of GPU numbers; write [0] or [0, 1], or "auto" for any'),
    (f'{REAL}gpus = "auto"\nargs = ["--tp", "2"]',
     "models.a.args: the server needs 2 GPUs (tp 2), and gpus names 1; name as many there, or correct args"),
])  # fmt: skip
def test_any_gpus_that_cannot_be_are_told(load, text, problem):
    assert problems(load, text) == [problem]


# [gpus]


def test_budgets_name_gpus_as_models_do(load):
    budgets = load(f'[gpus]\nreserve = "1GiB"\nmemory = {{ 1 = "40GiB", "MIG-c6" = "8GiB" }}\n{REAL}').gpus
    assert budgets == GpuBudgets(GiB, {"1": 40 * GiB, SLICE: 8 * GiB})
    assert [budgets.most("1", 80 * GiB, taken * GiB) // GiB for taken in (0, 30, 50, 90)] == [40, 40, 29, 0]
    assert budgets.most("0", 80 * GiB) == 79 * GiB
    assert budgets.declared() == {"1": 39 * GiB, SLICE: 7 * GiB}
    assert load(f'[gpus]\nmemory = {{ "{UUID_3}" = 1 }}\n{PRETEND}').gpus.memory == {"3": 1}


@pytest.mark.parametrize(("memory", "problem"), [
    ('{ 1 = "40GiB", "GPU-89" = "1GiB" }', "1 and GPU-89 are the same GPU; name it once"),
    ('{ GPU-77 = "40GiB" }', "GPU-77 is none of the GPUs of this machine; give gpus, by number"),
    ('{ first = "40GiB" }', '"first" is not a GPU; write its number, or its UUID'),
    ('"40GiB"', '"40GiB" is not a table; write { 0 = "40GiB" }'),
    ("{ 0 = 0 }", "0 is too small; use at least 1B"),
])  # fmt: skip
def test_a_budget_that_is_none_is_told(load, memory, problem):
    assert problems(load, f"[gpus]\nmemory = {memory}\n{REAL}") == [f"gpus.memory: {problem}"]


# CUDA_VISIBLE_DEVICES


@pytest.mark.parametrize("table", [REAL, PRETEND])
def test_without_gpus_a_model_gets_the_first_that_muxd_was_given_and_that_is_said(load, table):
    config = load(table, CUDA_VISIBLE_DEVICES="3,5")
    assert config.models[0].gpus == ("3",)
    assert config.remarks == (
        "model a gets GPU 3: it has no gpus, and they follow CUDA_VISIBLE_DEVICES=3,5, which muxd was started with",
    )
    assert load(f'{table}args = ["--tp", "2"]', CUDA_VISIBLE_DEVICES="3,5").models[0].gpus == ("3", "5")
    assert load(table, CUDA_VISIBLE_DEVICES="GPU-89").models[0].gpus == ("1",)
    assert load(table).remarks == ()


@pytest.mark.parametrize("said", ["tensor_parallel_size = 2", 'args = ["-tp", "2"]'])
def test_without_gpus_a_vllm_gets_as_many_as_it_is_split_over(load, said):
    assert load(f'{REAL}engine = "vllm"\n{said}').models[0].gpus == ("0", "1")


def test_gpus_beyond_those_that_muxd_was_given_are_pointed_out(load):
    config = load(f"{REAL}gpus = [0, 3]", CUDA_VISIBLE_DEVICES="3")
    assert (config.models[0].gpus, config.remarks) == (
        ("0", "3"),
        ("model a uses GPU 0, outside of CUDA_VISIBLE_DEVICES=3, which muxd was started with",),
    )
    assert load(f"{REAL}gpus = [3]", CUDA_VISIBLE_DEVICES="3").remarks == ()


@pytest.mark.parametrize(("given", "what"), [("", "names none"), ("-1", "names none"), ("2", "names 1")])
def test_where_muxd_was_given_too_few_gpus_are_asked_for(load, given, what):
    table = REAL if "none" in what else f'{REAL}args = ["--tp=2"]\n'
    (problem,) = problems(load, table, CUDA_VISIBLE_DEVICES=given)
    assert f"CUDA_VISIBLE_DEVICES={given}, which muxd was started with, {what}; give gpus" in problem
    assert load(f"{table}gpus = [0, 1]", CUDA_VISIBLE_DEVICES=given).models[0].gpus == ("0", "1")


def test_check_tells_what_it_went_by(load, tmp_path, capsys):
    load(REAL)
    assert check(tmp_path / "muxd.toml", {"HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3"}, host=False) == 0
    assert "model a gets GPU 3" in capsys.readouterr().out


# How many

NEEDS = {
    "": (1, 0),
    "--tp 2": (2, 0),
    "--tp-size=2 --dp-size 4": (8, 0),
    "--tp 2 --data-parallel 4": (8, 0),
    "--pp-size 2 --tp 2": (4, 0),
    "--tp 4 --dp 2 --enable-dp-attention": (4, 0),
    "--tp 16 --nnodes 2": (8, 0),
    "--tp 2 --base-gpu-id 4": (6, 4),
    "--tp 2 --gpu-id-step 2": (3, 0),
}


@pytest.mark.parametrize(("args", "expected"), NEEDS.items())
def test_gpus_are_counted_as_sglang_does(args, expected):
    needs = parallel(flag_of(args.split()))
    assert (needs.seen, needs.first) == expected


def test_without_gpus_a_model_gets_as_many_as_it_needs(load):
    assert load(f'{REAL}args = ["--tp", "2", "--dp-size", "2"]').models[0].gpus == ("0", "1", "2", "3")


@pytest.mark.parametrize(("args", "what"), [('"--tp", "2", "--dp-size", "2"', "4 GPUs (tp 2 x dp 2)"),
                                           ('"--base-gpu-id=2"', "3 GPUs (from --base-gpu-id 2 on)")])  # fmt: skip
def test_args_that_need_more_than_gpus_names_are_told(load, args, what):
    (problem,) = problems(load, f"{REAL}gpus = [0, 1]\nargs = [{args}]")
    text = f"models.a.args: the server needs {what}, and gpus names 2; name as many there, or correct args"
    assert problem == text


def test_args_that_need_more_than_any_host_has_are_told(load):
    (problem,) = problems(load, f'{REAL}args = ["--tp", "9999", "--pp", "9999"]')
    assert problem == "models.a.args: tp 9999 x pp 9999: 99980001 GPUs are more than a host has; correct args"


def test_tensor_parallelism_is_what_replicas_and_pipelines_leave(load):
    def tensor(args, gpus):
        flags = server_flags(load(f"{REAL}gpus = {gpus}\nargs = {args}").models[0], 1)
        return flags[flags.index("--tp-size") + 1] if "--tp-size" in flags else None

    assert tensor('["--dp-size", "2"]', [0, 1, 2, 3]) == "2"
    assert tensor('["--pp-size", "2"]', [0, 1]) is None
    assert tensor('["--tensor-parallel", "2"]', [0, 1]) is None


# NVML


@pytest.fixture
def divided(monkeypatch):
    """NVML with two cards, the second of which is divided: one slice, at place 2."""

    def slice_of(gpu, place):
        if (gpu, place) != (1, 2):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "slice"

    def places(gpu):
        if gpu == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 7

    for name, call in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: {0: "GPU-a", 1: "GPU-b", "slice": "MIG-c"}[handle],
        "nvmlDeviceGetMaxMigDeviceCount": places,
        "nvmlDeviceGetMigDeviceHandleByIndex": slice_of,
        "nvmlDeviceGetGpuInstanceId": lambda _: 3,
        "nvmlDeviceGetComputeInstanceId": lambda _: 0,
        "nvmlDeviceGetName": str,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=20 if handle == "slice" else 80, used=1),
    }.items():
        monkeypatch.setattr(pynvml, name, call)


def test_slices_are_found_after_their_card(divided):
    card = GpuIdentity("1", "GPU-b", slices=("MIG-c",))
    assert installed_gpus() == [GpuIdentity("0", "GPU-a"), card, GpuIdentity("MIG-c", "MIG-c", "MIG-GPU-b/3/0")]


async def test_of_a_divided_card_the_slices_are_read(divided):
    gpus = NvmlGpus()
    assert {gpu: memory.total for gpu, memory in (await gpus.read()).items()} == {"0": 80, "MIG-c": 20}
    assert gpus.there == {"0", "MIG-c"}


async def test_slices_of_a_lost_card_are_still_known(divided, monkeypatch):
    gpus = NvmlGpus()
    await gpus.read()

    def lost(index):
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lost)
    assert set(await gpus.read()) == {"0"}
    assert {"0", "MIG-c"} <= gpus.there


async def test_memory_by_process_is_told_where_nvml_has_it(divided, monkeypatch):
    def none(_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    listed = {0: [SimpleNamespace(pid=7, usedGpuMemory=5)], "slice": [SimpleNamespace(pid=8, usedGpuMemory=None)]}
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", listed.get)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", none)
    reading = await NvmlGpus().read(holders=True)
    assert {gpu: memory.holders for gpu, memory in reading.items()} == {"0": {7: 5}, "MIG-c": None}


def test_where_no_driver_answers_the_reason_is_told(monkeypatch):
    def fails():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    with pytest.raises(CannotAsk, match=r"^NVML: Driver Not Loaded$"):
        installed_gpus()
