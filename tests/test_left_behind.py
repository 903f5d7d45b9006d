"""What of a killed muxd's children the next one takes over, by the state file alone."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from muxd.children import ChildRecord
from muxd.config import Config, Memory, Model
from muxd.config.model_schema import DeclaredServer, Script
from muxd.config.plan import identity_of
from muxd.config.schema import Daemon
from muxd.left_behind import _left_elsewhere, find_left_behind, is_to_be_ended, proxy_digest
from muxd.members import members_of
from muxd.saved_state import SavedState, WorkerRecord

MODEL = Model("a", engine="simulator", gpus=("0",), memory=Memory(1, 1, 1))


class Shelter:
    """Children that all live on, and a list of those that were taken over."""

    def __init__(self) -> None:
        self.adopted: list[str] = []

    def adopt(self, record: ChildRecord) -> str:
        self.adopted.append(record.name)
        return record.name


def config(folder: Path, *models: Model, **daemon: Any) -> Config:
    return Config(Daemon(folder / "s", folder, folder / "logs", **daemon), models=models or (MODEL,))


def child(name: str) -> ChildRecord:
    return ChildRecord(name, 17, 18, "boot", "token", "/l", "/e")


def record(folder: Path, model: Model = MODEL, **facts: Any) -> WorkerRecord:
    workdir = folder / "workers" / "a-1"
    known: dict[str, Any] = {
        "child": child(model.name),
        "workdir": str(workdir),
        "tmpdir": str(workdir / "tmp"),
        "port": 31001,
        "admin_key": "k",
        "is_at_rest": True,
        "digest": identity_of(model),
    }
    return WorkerRecord(**known | facts)


def found(saved: SavedState, wanted: Config) -> dict[str, Any]:
    return find_left_behind(Shelter(), saved, wanted).workers  # type: ignore[arg-type]


def test_what_was_at_rest_is_taken_over(tmp_path):
    assert found(SavedState(workers={"a": record(tmp_path)}), config(tmp_path)) == {"a": "a"}


@pytest.mark.parametrize(
    "facts",
    [
        {"call": "release"},
        {"is_at_rest": False},
        {"digest": "another"},
        {"workdir": "/home/me/workers/a-1", "tmpdir": "/home/me/workers/a-1/tmp"},
        {"tmpdir": "/home/me"},
        {"leftovers": ["/home/me/thesis"]},
        {"port": 0},
        {"port": 1 << 16},
    ],
    ids=str,
)
def test_what_is_in_doubt_or_was_changed_is_not(tmp_path, facts):
    assert found(SavedState(workers={"a": record(tmp_path, **facts)}), config(tmp_path)) == {}


def test_what_is_not_certain_to_be_the_child_of_its_record_is_not_and_that_is_told(tmp_path, caplog):
    caplog.set_level("INFO")
    saved = SavedState(workers={"a": record(tmp_path)})
    shelter = SimpleNamespace(adopt=lambda record: None)
    assert find_left_behind(shelter, saved, config(tmp_path)).workers == {}  # type: ignore[arg-type]
    assert "a is not taken over from an earlier muxd: its shim has ended, or its lock file is not as" in caplog.text


def test_what_an_operator_stopped_is_not(tmp_path):
    assert found(SavedState(workers={"a": record(tmp_path)}, stopped=["a"]), config(tmp_path)) == {}


def test_what_an_earlier_version_wrote_is_not(tmp_path):
    old = {"child": child("a"), "workdir": "/w", "tmpdir": "/t", "port": 1, "admin_key": "k", "asleep": True}
    saved = msgspec.json.decode(msgspec.json.encode({"version": 1, "workers": {"a": old}}), type=SavedState)
    assert found(saved, config(tmp_path)) == {}


def test_replicas_and_their_router_are_each_by_its_own_record(tmp_path):
    group = replace(MODEL, replicas=2, gpus=("0", "1"))
    members = {member.model.name: member.model for member in members_of(group)}
    saved = {name: record(tmp_path, model) for name, model in members.items()}
    assert list(found(SavedState(workers=saved), config(tmp_path, group))) == ["a/0", "a/1", "a/router"]
    saved["a/1"].call = "release"
    assert list(found(SavedState(workers=saved), config(tmp_path, group))) == ["a/0", "a/router"]
    assert found(SavedState(workers=saved, stopped=["a"]), config(tmp_path, group)) == {}
    assert found(SavedState(workers=saved), config(tmp_path, MODEL)) == {}


def test_the_server_of_a_launch_script_is_unless_the_script_has_changed(tmp_path):
    script = Script(Path("/s.sh"), (), DeclaredServer(None, None, (), None), ())
    by_script = replace(MODEL, script=script)
    saved = SavedState(workers={"a": record(tmp_path, by_script)})
    assert found(saved, config(tmp_path, by_script)) == {"a": "a"}
    changed = replace(by_script, script=replace(script, digests={"/s.sh": "another"}))
    assert found(saved, config(tmp_path, changed)) == {}


def test_a_model_that_is_not_configured_any_more_is_not(tmp_path):
    assert found(SavedState(workers={"a": record(tmp_path)}), config(tmp_path, replace(MODEL, name="b"))) == {}


def test_with_on_crash_stop_nothing_is(tmp_path):
    wanted = config(tmp_path, on_crash="stop")
    saved = SavedState(
        workers={"a": record(tmp_path)}, proxies={"muxd-proxy": child("muxd-proxy")}, proxy_digest=proxy_digest(wanted)
    )
    left = find_left_behind(Shelter(), saved, wanted)  # type: ignore[arg-type]
    assert (left.workers, left.proxies) == ({}, {})
    saved.ending = "handover"
    left = find_left_behind(Shelter(), saved, wanted)  # type: ignore[arg-type]
    assert ([*left.workers], [*left.proxies]) == (["a"], ["muxd-proxy"]), "an upgrade is no crash"


def test_a_former_proxy_goes_on_with_what_it_finishes_also_when_it_is_replaced_again(tmp_path):
    wanted = config(tmp_path)
    saved = SavedState(
        proxies={"muxd-proxy": child("muxd-proxy.2")},
        outgoing={"muxd-proxy": child("muxd-proxy")},
        proxy_digest=proxy_digest(wanted),
    )
    left = find_left_behind(Shelter(), saved, wanted)  # type: ignore[arg-type]
    assert (left.proxies, left.outgoing) == ({"muxd-proxy": "muxd-proxy.2"}, ("muxd-proxy",))  # type: ignore[comparison-overlap]
    left = find_left_behind(Shelter(), msgspec.structs.replace(saved, proxy_digest="another"), wanted)  # type: ignore[arg-type]
    assert (left.proxies, left.outgoing) == ({}, ("muxd-proxy", "muxd-proxy.2"))  # type: ignore[comparison-overlap]


def test_the_proxy_is_unless_its_settings_have_changed(tmp_path):
    wanted = config(tmp_path)
    saved = SavedState(proxies={"muxd-proxy": child("muxd-proxy")}, proxy_digest=proxy_digest(wanted))
    assert find_left_behind(Shelter(), saved, wanted).proxies == {"muxd-proxy": "muxd-proxy"}  # type: ignore[arg-type, comparison-overlap]
    for changed in (
        replace(wanted, proxy=replace(wanted.proxy, drain_timeout=1.0)),
        config(tmp_path / "elsewhere"),
    ):
        left = find_left_behind(Shelter(), saved, changed)  # type: ignore[arg-type]
        assert (left.proxies, left.outgoing) == ({}, ("muxd-proxy",)), "it finishes what it has"  # type: ignore[comparison-overlap]
    unmanaged = replace(wanted, proxy=replace(wanted.proxy, managed=False))
    assert find_left_behind(Shelter(), saved, unmanaged).outgoing == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ending", "result", "is_ended"),
    [
        ("", "success", True),
        ("", "timeout", True),  # it did not hear SIGTERM
        ("stop", "signal", True),  # it crashed on its way out
        ("", "signal", False),
        ("", "watchdog", False),
        ("", "exit-code", False),
        ("handover", "success", False),
    ],
)
def test_after_a_service_ends_what_nobody_will_take_over(tmp_path, ending, result, is_ended):
    assert is_to_be_ended(SavedState(ending=ending), config(tmp_path), result) is is_ended


def test_with_on_crash_stop_a_service_leaves_nothing_but_a_handover(tmp_path):
    stops = config(tmp_path, on_crash="stop")
    assert is_to_be_ended(SavedState(), stops, "signal")
    assert not is_to_be_ended(SavedState(ending="handover"), stops, "success")


#: A process that looks like a shim, with its child's lock file open.
LIKE_A_SHIM = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
CONTAINER = ("unshare", "--map-root-user", "--pid", "--fork")


@pytest.mark.parametrize("around", [(), CONTAINER], ids=["here", "in a container"])
def test_shims_of_a_container_are_not_told_of(tmp_path, around):
    """Its muxd may live, though no lock is seen to be held at that path of this host."""
    if around and subprocess.run([*around, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare with user and pid namespaces")
    lock = tmp_path / "children" / "a.lock"
    lock.parent.mkdir()
    lock.touch()
    argv = [*around, sys.executable, "-c", LIKE_A_SHIM, str(lock), "/opt/muxd/shim/__main__.py"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shim:
        assert shim.stdout is not None
        shim.stdout.readline()
        found = _left_elsewhere()
        shim.communicate()
    assert (tmp_path in found) == (not around)


def test_the_processes_of_a_model_depend_on_what_a_reload_restarts_it_for():
    assert identity_of(MODEL) == identity_of(replace(MODEL, switch_timeout=7.0, concurrency_limit=3))
    for changed in (
        replace(MODEL, gpus=("1",)),
        replace(MODEL, env={"A": "b"}),
        replace(MODEL, memory=Memory(2, 1, 1)),
    ):
        assert identity_of(changed) != identity_of(MODEL)
