"""The arrows between the rooms: what a file may import, at its head or within a function, and what is then loaded.

No exception has a name here: an arrow is allowed for a whole room, or for nobody.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MUXD = ROOT / "muxd"

#: What the core computes with: nothing that waits, looks at the clock or the host, or is left to chance.
PURE = {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math"}
PURE |= {"msgspec", "operator", "types", "typing", "zlib"}

#: What each of these rooms imports of muxd at most.
AT_MOST = {
    "core": set(),
    "shim": set(),
    "errors": set(),
    "http": {"errors", "plain_stores"},
    "protocol": set(),
    "client": {"errors", "http", "protocol"},
    "simulator": {"errors", "http"},
    "importers": {"config", "errors"},
    "children": {"errors", "locks", "missing_folders", "own_files", "shim", "threads"},
    "proxy": {"client", "config", "errors", "http", "protocol", "ports", "pool_share", "threads"}
    | {"missing_folders", "notify", "own_log", "plain_stores", "watchdog"},
}

#: What each of these rooms never imports of muxd.
ABOVE_WORKERS = {"supervisor", "daemon", "control", "status", "metrics", "proxy"}
NEVER = {
    "frontends": {"core", "supervisor", "workers", "gpus", "nvml", "control", "daemon", "proxy", "ui", "history"}
    | {"simulator"},
    "ui": {"core", "supervisor", "workers", "children", "engines", "gpus", "nvml", "control", "history", "simulator"},
    "setup": {"core", "supervisor", "workers", "children", "engines", "gpus", "nvml", "control", "proxy", "simulator"},
    "config": ABOVE_WORKERS | {"core", "host", "workers", "children", "shim", "simulator"},
    **dict.fromkeys(("gpus", "nvml"), ABOVE_WORKERS | {"workers", "children", "engines", "launchers", "simulator"}),
    "host": ABOVE_WORKERS | {"core", "workers", "children", "engines", "launchers", "simulator", "importers"},
    "engines": ABOVE_WORKERS | {"workers", "children", "shim", "importers"},
    "launchers": ABOVE_WORKERS | {"workers", "shim", "importers", "simulator"},
    "workers": ABOVE_WORKERS | {"importers", "simulator"},
    "metrics": {"supervisor", "daemon", "control", "proxy", "simulator"},
    "control": {"supervisor", "daemon", "workers", "children", "engines", "gpus", "nvml", "proxy", "simulator"},
    "supervisor": {"daemon", "control", "proxy", "importers", "simulator", "children", "shim"},
    "check": ABOVE_WORKERS | {"workers", "simulator"},  # it asks children which processes a killed muxd has left
    "init": ABOVE_WORKERS | {"workers", "children", "simulator"},
}


@cache
def imports() -> dict[str, dict[str, bool]]:
    """What each module imports: whole names -> whether at its head, where it is loaded with the module."""
    return {module: dict(_imports(module, path)) for module, path in modules().items()}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted([*MUXD.rglob("*.py"), *(ROOT / "muxctl").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(module: str, path: Path) -> Iterator[tuple[str, bool]]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(path.read_text())
    heads = set(tree.body)
    for node in (*(set(ast.walk(tree)) - heads), *heads):  # what is imported twice counts at the head
        if isinstance(node, ast.Import):
            yield from ((name.name, node in heads) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                inner = f"{base}.{name.name}"
                yield inner if inner in modules() else base, node in heads


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


@cache
def reached_from(room: str) -> set[str]:
    """The other rooms that the files of a room import."""
    own = {module for module in modules() if module.startswith("muxd") and room_of(module) == room}
    assert own, f"there is no room {room}"
    return {room_of(name) for module in own for name in imports()[module] if name.startswith("muxd.")} - {room}


@pytest.mark.parametrize("room", AT_MOST)
def test_a_room_imports_at_most_what_is_listed(room):
    assert reached_from(room) - {"__version__"} <= AT_MOST[room]


@pytest.mark.parametrize("room", NEVER)
def test_a_room_never_imports_what_is_above_it_or_none_of_its_business(room):
    assert reached_from(room) & NEVER[room] == set()


def test_no_module_imports_itself_by_a_detour():
    at_head = {m: {name for name, is_at_head in names.items() if is_at_head} for m, names in imports().items()}
    assert in_circles(at_head) == {}, "these import each other"


def test_in_the_core_nobody_knows_itself_by_a_detour_not_even_by_its_types():
    core = {module: set(names) for module, names in imports().items() if module.startswith("muxd.core.")}
    assert in_circles(core) == {}, "these know each other"


def test_no_module_knows_itself_by_a_detour_through_another_room_not_even_within_a_function():
    arrows = {module: names.keys() & modules().keys() for module, names in imports().items()}
    found = {
        (module, name)
        for module, names in arrows.items()
        for name in names
        if room_of(name) != room_of(module) and module in reached(arrows, name)
    }
    assert found == set(), "the first knows itself by the second"


def reached(arrows: dict[str, set[str]], module: str) -> set[str]:
    """The modules to which the arrows of one lead, over others too."""
    found, new = {module}, {module}
    while new := {name for each in new for name in arrows[each]} - found:
        found |= new
    return found


def in_circles(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The modules that a circle can be reached from."""
    left = {module: names & arrows.keys() for module, names in arrows.items()}
    while ready := [module for module, names in left.items() if not names & left.keys()]:
        for module in ready:
            del left[module]
    return left


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("muxd.core")])
def test_the_core_knows_nothing_of_the_outside(module):
    assert {name.split(".")[0] for name in imports()[module]} <= PURE | {"muxd"}


def test_the_core_says_what_each_of_its_files_is_for():
    told = re.findall(r"`(\w+)`", ast.get_docstring(ast.parse((MUXD / "core/__init__.py").read_text())) or "")
    assert set(told) - {"concurrency_limit"} == {path.stem for path in (MUXD / "core").glob("*.py")} - {"__init__"}


@cache
def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_the_core_loads_is_itself_alone():
    found = loaded_by("muxd.core.scheduler, muxd.core.progress")
    assert not {"trio", "httpx", "subprocess", "socket", "logging", "random", "asyncio"} & found
    assert {m for m in found if m.startswith("muxd.")} <= {m for m in found if m.startswith("muxd.core")}


def test_the_proxy_knows_only_the_clients_side():
    found = {m for m in loaded_by("muxd.proxy.app") if m.startswith("muxd.")}
    rooms = {m.split(".")[1] for m in found}
    assert rooms <= {
        "proxy",
        "http",
        "client",
        "config",
        "errors",
        "missing_folders",
        "protocol",
        "log_levels",
        "ports",
        "notify",
        "own_log",
        "plain_stores",
        "pool_share",
        "threads",
        "watchdog",
    }


def test_what_muxd_tells_its_proxy_is_read_there_without_any_engine():
    settings = {"models": {"a": {"served_names": ["x"]}}, "capabilities": {"models": {"a": {"makes": "text"}}}}
    read = f"muxd.config.load; config = muxd.config.load.config_from_supervisor({settings}, {{}})"
    found = loaded_by(f"{read}; assert config.capabilities.of('a').makes == 'text'; import sys")
    assert not [m for m in found if m.startswith(("muxd.engines", "muxd.simulator"))]


def test_the_help_of_muxd_is_read_without_the_configuration():
    assert not {"msgspec", "muxd.config"} & loaded_by("muxd.__main__, muxd.arguments; muxd.arguments.command_line()")


def test_muxctl_starts_with_the_standard_library_alone():
    heavy = {"trio", "httpx", "rich", "msgspec", "httptools", "asyncio", "subprocess", "muxd.config"}
    assert not heavy & loaded_by("muxctl.cli")


def test_the_shim_is_the_standard_library_and_itself_alone():
    loaded = "print(*(name for name, module in sys.modules.items() if module))"
    code = f"import sys; sys.path.append(sys.argv[1]); import muxd.shim.shim; {loaded}"
    argv = [sys.executable, "-I", "-S", "-c", code, str(MUXD.parent)]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {m.split(".")[0] for m in found} <= {*sys.stdlib_module_names, "__main__", "muxd"}
    assert not {"typing", "dataclasses", "subprocess"} & set(found)  # they cost memory, beside every child
    assert {m for m in found if m.startswith("muxd.")} == {m for m in found if m.startswith("muxd.shim")}


#: What a supervisor runs with.
DAEMON = "muxd.daemon, muxd.config.load"


def test_the_supervisor_is_not_in_the_data_path():
    assert not [m for m in loaded_by(DAEMON) if m.startswith("muxd.proxy.")]


#: What takes milliseconds to import, and what no process of muxd needs before it serves.
SLOW = {"asyncio", "email", "http.client", "httpx", "prometheus_client", "pynvml", "rich", "urllib.request", "yaml"}


@pytest.mark.parametrize("process", [DAEMON, "muxd.proxy.app", "muxd.ui.console_server", "muxd.simulator.main_process"])
def test_a_process_starts_without_what_costs_much_and_is_not_needed(process):
    assert SLOW & loaded_by(process) == set()


def test_a_simulated_server_forks_its_children_while_it_is_small():
    assert not {*SLOW, "trio", "msgspec", "ssl", "http", "socket", "logging"} & loaded_by("muxd.simulator.__main__")


def test_what_is_frozen_is_a_struct():
    """A frozen dataclass is generated and compiled at each start: 0.35 ms, ten times what a Struct takes.

    Dataclasses stay where fields do not count in comparisons or no caller gives them, and in other rooms: the tables of
    a configuration, whose fields carry declarations, and what is forked while it is small.
    """
    lasting = {"core", "supervisor", "workers", "engines", "children", "proxy", "http", "control", "metrics", "ui"}
    frozen = re.compile(r"^@dataclass\(frozen=True.*\nclass (\w+).*(?:\n(?!@|class).*)*", re.MULTILINE)
    found = [
        f"{module}.{each[1]}"
        for module, path in modules().items()
        if room_of(module) in lasting
        for each in frozen.finditer(path.read_text())
        if "compare=False" not in each[0] and "init=False" not in each[0]
    ]
    assert found == []


def test_no_garbage_is_collected_while_the_modules_of_a_command_come():
    code = """
import gc, sys
from muxd.__main__ import main
collections, freeze = [], gc.freeze
gc.callbacks.append(lambda phase, _: collections.append(phase))
gc.freeze = lambda: (print(len(collections), "muxd.check.verb" in sys.modules), freeze())
sys.argv = ["muxd", "check", "--no-host", "--config", "/dev/null"]
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert found.startswith("0 True\n"), found


def test_scripts_are_read_with_nothing_but_themselves():
    rooms = {m.split(".")[1] for m in loaded_by("muxd.importers.drop_in") if m.startswith("muxd.")}
    assert rooms <= {"importers", "config", "errors", "log_levels"}


def test_without_a_script_nothing_is_loaded_to_read_one():
    assert not [m for m in loaded_by(DAEMON) if m.startswith("muxd.importers")]


def test_the_grammar_of_bash_is_loaded_where_a_script_is_read_and_not_before():
    before = "muxd.daemon, muxd.proxy.app, muxd.check.verb, muxd.importers.script_models, muxd.importers.drop_in"
    assert not {"tree_sitter", "tree_sitter_bash"} & set(loaded_by(before))
    assert "tree_sitter_bash" in loaded_by("muxd.importers.bash_syntax as b; b.tree(''); import sys")


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
