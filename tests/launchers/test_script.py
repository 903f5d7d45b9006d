"""What a launch script is given, and that it is the one that was read."""

from hashlib import sha256
from pathlib import Path

from muxd.config import Daemon, Model
from muxd.config.model_schema import Script
from muxd.engines.engine import LaunchContext
from muxd.engines.registry import engine_for
from muxd.launchers.launcher import launcher_for
from muxd.launchers.script import changed

DAEMON = Daemon(Path("/s"), Path("/state"), Path("/logs"))
PLAN = LaunchContext(31001, Path("/w"), Path("/w/tmp"), "muxds-own", DAEMON)


def model(level=2, **script):
    return Model("legacy", script=Script(("/bin/bash", "/x/legacy.sh"), **script), served_names=("a",),
                 sleep_level=level)  # fmt: skip


def launched(model):
    return launcher_for(model).launch(model, engine_for(model), PLAN)


def test_a_script_gets_environment_and_nothing_else():
    launch = launched(model(env={"PORT": "31001"}))
    assert launch.argv == ("/bin/bash", "/x/legacy.sh")
    assert launch.files == {}
    assert "muxds-own" not in str(launch)
    assert launch.env["PORT"] == "31001"
    assert launch.env["TMPDIR"] == "/w/tmp"
    assert "CUDA_VISIBLE_DEVICES" not in launch.env
    assert launch.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "GPUs are counted as muxd counts them"


def test_a_script_or_what_it_reads_in_is_seen_to_be_another(tmp_path):
    path, other = tmp_path / "a.sh", tmp_path / "env"
    digests = {}
    for file in (path, other):
        file.write_text("x")
        digests[str(file)] = sha256(b"x").hexdigest()
    script = Script(("bash", str(path)), digests)
    assert changed(script) == ""
    other.write_text("y")
    assert changed(script) == str(other)
    other.unlink()
    assert changed(script) == "", "bash says what is not there"


def test_no_key_is_known_before_its_server_is_seen():
    found = launched(model()).keys
    assert (found.admin, found.api) == ("", "")
