"""The arrows between the rooms, as far as importing shows them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MUXD = Path(__file__).parents[1] / "muxd"


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", sorted(p.stem for p in (MUXD / "core").glob("*.py") if p.stem != "__init__"))
def test_the_core_knows_nothing_of_the_outside(module):
    outside = {"trio", "httpx", "subprocess", "socket", "logging", "random", "asyncio"}
    found = loaded_by(f"muxd.core.{module}")
    assert not outside & found
    assert {m for m in found if m.startswith("muxd.")} <= {m for m in found if m.startswith("muxd.core")}


def test_the_core_does_not_look_at_the_clock():
    for path in (MUXD / "core").glob("*.py"):
        assert "import time" not in path.read_text()


def test_the_proxy_knows_only_the_clients_side():
    found = {m for m in loaded_by("muxd.proxy.app") if m.startswith("muxd.")}
    rooms = {m.split(".")[1] for m in found}
    assert rooms <= {
        "proxy",
        "http",
        "client",
        "config",
        "errors",
        "lease_protocol",
        "ports",
        "notify",
        "own_log",
        "threads",
    }


def test_what_muxd_tells_its_proxy_is_read_there_without_any_engine():
    settings = {"models": {"a": {"served_names": ["x"]}}, "capabilities": {"models": {"a": {"makes": "text"}}}}
    read = f"muxd.config.load; config = muxd.config.load.config_from_supervisor({settings}, {{}})"
    found = loaded_by(f"{read}; assert config.capabilities.of('a').makes == 'text'; import sys")
    assert not [m for m in found if m.startswith(("muxd.engines", "muxd.simulator"))]


def test_muxctl_starts_with_the_standard_library_alone():
    heavy = {"trio", "httpx", "rich", "msgspec", "httptools", "asyncio", "subprocess", "muxd.config"}
    assert not heavy & loaded_by("muxctl.__main__")


def test_the_shim_is_the_standard_library_and_itself_alone():
    code = "import sys; sys.path.append(sys.argv[1]); import muxd.shim.shim; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code, str(MUXD.parent)]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {m.split(".")[0] for m in found} <= {*sys.stdlib_module_names, "__main__", "muxd"}
    assert not {"typing", "dataclasses", "subprocess"} & set(found)  # they cost memory, beside every child
    assert {m for m in found if m.startswith("muxd.")} == {m for m in found if m.startswith("muxd.shim")}


def test_the_supervisor_is_not_in_the_data_path():
    assert not [m for m in loaded_by("muxd.daemon") if m.startswith("muxd.proxy.")]


def test_the_supervisor_starts_without_what_costs_much_and_is_not_needed():
    assert not {"rich", "asyncio", "prometheus_client"} & loaded_by("muxd.daemon")


def test_scripts_are_read_with_nothing_but_themselves():
    rooms = {m.split(".")[1] for m in loaded_by("muxd.importers.drop_in") if m.startswith("muxd.")}
    assert rooms <= {"importers", "config", "errors"}


def test_without_a_script_nothing_is_loaded_to_read_one():
    assert not [m for m in loaded_by("muxd.daemon, muxd.config.load") if m.startswith("muxd.importers")]


@pytest.mark.parametrize("engine", ["sglang", "simulator"])
def test_an_engine_knows_nothing_of_how_it_is_launched_or_followed(engine):
    rooms = {m.split(".")[1] for m in loaded_by(f"muxd.engines.{engine}.engine") if m.startswith("muxd.")}
    assert not rooms & {"launchers", "workers", "supervisor", "children", "proxy", "control"}


@pytest.mark.parametrize("room", ["core", "workers", "children", "shim"])
def test_no_engine_is_named_where_any_engine_is_meant(room):
    texts = {path.name: path.read_text().lower() for path in (MUXD / room).rglob("*.py")}
    assert {name for name, text in texts.items() if re.search("sglang|simulat|vllm", text)} == set()


def test_nothing_but_its_engines_package_imports_the_simulator():
    texts = {path.relative_to(MUXD): path.read_text() for path in MUXD.rglob("*.py")}
    found = {
        path for path, text in texts.items() if re.search(r"(from|import) +(muxd)?[.]?simulator\b(?!\.kind)", text)
    }
    homes = (Path("simulator"), Path("engines/simulator"))
    assert {path for path in found if not any(path.is_relative_to(home) for home in homes)} == set()
