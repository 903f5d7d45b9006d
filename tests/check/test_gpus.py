"""What `muxd check` says of GPUs: which are there, what others hold of them, and which models and replicas fit."""

import os

import pytest

from muxd.config.schema import GiB
from muxd.shim.processes import program_of
from muxd.simulator.gpu_ledger import GpuLedger, start_time

from .conftest import A, of


def test_the_gpus_are_told_and_those_that_are_not_there(report, interpreter):
    interpreter()
    text = f"[defaults]\npython = './python'\n{A}gpus = [0, 3]\n"
    _, lines = report(text, gpus=(140, 80))
    assert of(lines, "GPUs", "a") == [
        ("ok", "GPUs", "0: NVIDIA H200, 140.0 GiB, 1: NVIDIA H200, 80.0 GiB"),
        ("WRONG", "a", "muxd.toml:7: GPU 3 is not there: there are 0, 1; correct gpus"),
    ]
    status, lines = report(f"{text}args = ['--device', 'cpu']\n", gpus=(140, 80))
    assert (status, of(lines, "a")[0][0]) == (0, "ok"), "a number that only keeps it apart from others"


BUDGETS = [
    ("memory = { 0 = '200GiB' }", "4: GPU 0 has 140.0 GiB in all, and memory gives models 200.0 GiB; lower it"),
    ("memory = { 7 = '20GiB' }", "4: GPU 7 is not there: there is 0; correct memory"),
    ("reserve = '140GiB'", "4: a reserve of 140.0 GiB leaves nothing of GPU 0, which has 140.0 GiB; lower it"),
]


@pytest.mark.parametrize(("text", "told"), BUDGETS)
def test_budgets_that_cannot_be_are_wrong_with_their_line(report, interpreter, text, told):
    interpreter()
    status, lines = report(f"[gpus]\n{text}\n[defaults]\npython = './python'\n{A}", gpus=(140,))
    assert (status, of(lines, "GPUs")[-1]) == (2, ("WRONG", "GPUs", f"muxd.toml:{told}"))


@pytest.mark.parametrize("engine", ["sglang", "simulator"])
def test_more_gpus_than_there_are_any_of_is_wrong(report, interpreter, monkeypatch, engine):
    interpreter()
    monkeypatch.setattr("muxd.config.devices.Devices.there", lambda _: ("0", "1"))
    head = "simulated_gpus = 2\n" if engine == "simulator" else ""
    table = f"[models.a]\nengine = '{engine}'\ngpus = 'auto:3'\n"
    table += "model_path = 'o/a'\npython = './python'\n" if engine == "sglang" else ""
    status, lines = report(head + table, gpus=(80, 80))
    line = 6 if engine == "simulator" else 5
    told = f"muxd.toml:{line}: it needs 3 GPUs, and there are 0, 1; correct gpus"
    assert (status, of(lines, "a")[0]) == (2, ("WRONG", "a", told))
    assert of(report(head + table.replace("auto:3", "auto:2"), gpus=(80, 80))[1], "a")[0][0] == "ok"


def test_more_gpus_than_the_configuration_gives_is_wrong_where_none_can_be_seen(report, interpreter, monkeypatch):
    interpreter()
    monkeypatch.setattr("muxd.config.devices.Devices.there", lambda _: ())
    text = "[gpus]\nmemory = { 0 = '80GiB', 1 = '80GiB' }\n"
    text += "[models.a]\ngpus = 'auto:3'\nmodel_path = 'o/a'\npython = './python'\n"
    told = "muxd.toml:6: it needs 3 GPUs, and there are 0, 1; correct gpus"
    assert of(report(text, gpus=())[1], "a")[0] == ("WRONG", "a", told)


@pytest.mark.parametrize("engine", ["sglang", "simulator"])
def test_a_model_beyond_the_budget_of_its_gpu_is_wrong(report, interpreter, engine):
    interpreter()
    table = f"[models.a]\nengine = '{engine}'\nmemory = {{ weights = '50GiB' }}\n"
    table += "model_path = 'o/a'\npython = './python'\n" if engine == "sglang" else ""
    status, lines = report(f"{table}[gpus]\nmemory = {{ 0 = '40GiB' }}\nreserve = '1GiB'\n", gpus=(80,))
    told = "needs 50.0 GiB, GPU 0 has 40.0 GiB for models by [gpus]: it can never be loaded"
    assert (status, of(lines, "a")[0][2]) == (2, f"muxd.toml:5: {told}; give it more gpus, or correct memory")


def test_a_model_without_sizes_is_told_that_it_does_not_keep_to_a_budget(report, interpreter):
    interpreter()
    text = f"[defaults]\npython = './python'\n{A}[gpus]\nmemory = {{ 0 = '40GiB' }}\n"
    status, lines = report(text, gpus=(80,))
    told = "takes what it finds of GPU 0, of which [gpus] leaves models 40.0 GiB; give it sizes in memory, of kv too"
    assert (status, of(lines, "a")) == (0, [("warn", "a", f"muxd.toml:5: {told}")])
    sized = text.replace("[gpus]", "memory = { weights = '20GiB', kv = '10GiB' }\n[gpus]")
    assert of(report(sized, gpus=(80,))[1], "a")[0][0] == "ok"


def test_what_others_hold_of_a_gpu_is_a_warning_with_their_names(report, tmp_path):
    path = tmp_path / "state/simulated-gpus.json"
    text = f"state_dir = '{path.parent}'\n[models.a]\nengine = 'simulator'\n"
    assert of(report(text)[1], "GPUs") == [("ok", "GPUs", "0: simulated, 80.0 GiB each")]
    assert not path.exists()
    path.parent.mkdir()
    GpuLedger(path, 80 * GiB).hold(os.getpid(), start_time(os.getpid()), "0", 12 * GiB)
    who = f"{program_of(os.getpid())} (pid {os.getpid()}), not muxd's"
    warning = ("warn", "GPUs", f"GPU 0: 12.0 GiB held by {who}; models have what they leave")
    assert warning in of(report(text)[1], "GPUs")


def test_no_driver_at_all_is_a_warning(report, interpreter):
    interpreter()
    _, lines = report(f"[defaults]\npython = './python'\n{A}", gpus=())
    assert " on GPU 0, which cannot be seen;" in of(lines, "a")[0][2]
    assert of(lines, "GPUs") == [
        ("warn", "GPUs", "none can be seen: no driver; install the driver, or give this user or container the GPUs")
    ]
    _, lines = report(f"[defaults]\npython = './python'\n{A}args = ['--device', 'cpu']\n", gpus=())
    assert of(lines, "GPUs") == []


def test_a_driver_that_fails_is_a_warning(tmp_path, capsys, interpreter):
    from muxd.check.verb import check

    def fail():
        raise RuntimeError("GPU is lost")

    interpreter()
    (tmp_path / "muxd.toml").write_text(f"[defaults]\npython = './python'\n{A}")
    assert check(tmp_path / "muxd.toml", {"HOME": str(tmp_path)}, gpus=fail) == 0
    assert "none can be seen: GPU is lost;" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["sglang", "simulator"])
def test_what_never_fits_is_wrong(report, interpreter, engine):
    interpreter()
    text = "[models.a]\nmodel_path = 'o/a'\npython = './python'\n" if engine == "sglang" else ""
    text = text or "[models.a]\nengine = 'simulator'\n"
    status, lines = report(text + "memory = { weights = '742GiB' }\n", gpus=(80,))
    line = 6 if engine == "sglang" else 5
    told = f"muxd.toml:{line}: needs 742.0 GiB, GPU 0 has 80.0 GiB: it can never be loaded; "
    assert (status, of(lines, "a")) == (2, [("WRONG", "a", told + "give it more gpus, or correct memory")])


def test_a_replica_that_never_fits_on_its_own_gpu_is_wrong(report):
    text = "[models.a]\nengine = 'simulator'\nreplicas = 2\ngpus = [0, 1]\nmemory = { weights = '90GiB' }\n"
    status, lines = report(text, gpus=())
    told = (
        "muxd.toml:7: needs 90.0 GiB, GPU 0 has 80.0 GiB: it can never be loaded; give it more gpus, or correct memory"
    )
    assert (status, of(lines, "a")) == (2, [("WRONG", "a", told)])


@pytest.mark.parametrize(
    ("memory", "told"),
    [
        (
            "memory = { weights = '28GiB', kv = '20GiB' }",
            "3 replicas on GPU 0 need 144.0 GiB, and it has 80.0 GiB: 1 of them fit; "
            "give each a GPU of its own, or correct memory",
        ),
        (
            "",
            "3 replicas cannot share GPU 0, all of which one may take; "
            "give it sizes in memory, of kv too, or each a GPU of its own",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["sglang", "simulator"])
def test_more_replicas_on_a_gpu_than_fit_are_wrong(report, interpreter, engine, memory, told):
    interpreter()
    text = "[models.a]\nmodel_path = 'o/a'\npython = './python'\nreplicas = 3\ngpus = [0, 0, 0]\n"
    text = (
        text.replace("model_path = 'o/a'\npython = './python'", "engine = 'simulator'") if engine != "sglang" else text
    )
    status, lines = report(text + memory + "\n", gpus=(80,))
    assert status == 2
    assert [line[2].partition(": ")[2] for line in of(lines, "a")] == [told]


def test_those_with_which_a_scaled_model_does_not_begin_may_be_more_than_fit(report):
    text = "[models.a]\nengine = 'simulator'\nmax_replicas = 3\ngpus = [0, 0, 0]\n"
    assert report(text + "memory = { weights = '28GiB', kv = '20GiB' }\n", gpus=())[0] == 0


def test_gpus_that_are_not_there_and_that_only_muxds_environment_names_are_the_environments(
    report, interpreter, monkeypatch
):
    interpreter()
    status, lines = report(f"[defaults]\npython = './python'\n{A}", gpus=(140, 80), CUDA_VISIBLE_DEVICES="7")
    assert status == 2
    assert [text for mark, subject, text in lines if (mark, subject) == ("WRONG", "a")] == [
        "GPU 7 is not there: there are 0, 1, and CUDA_VISIBLE_DEVICES=7, which muxd was started with, names it; "
        "correct it, or start muxd without it"
    ]
