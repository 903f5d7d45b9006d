"""sglangmux's launch scripts with real SGLang servers."""

import shlex
from pathlib import Path

from tests.end_to_end.muxd import assert_never_two_awake
from tests.end_to_end.scripts import Scripts
from tests.ports import free_port

from .sglang_cpu import CPU_ARGS, CPU_ENV

#: Two cold starts of up to 40 s, one after the other.
DEADLINE = 240.0

SCRIPT = """\
#!/usr/bin/env bash
set -euo pipefail
export {env}
MODEL_NAME="org/{name}"
PORT=${{{variable}:-{port}}}
ARGS=({args})
{exec}{home}/venv/bin/python -m sglang.launch_server \\
  --model-path "{home}/models/{name}" --host 0.0.0.0 --port "$PORT" \\
  "${{ARGS[@]}}" {saver}
"""


def write(folder: Path, home: Path, name: str, *, exec: str, saver: str) -> str:
    env = " ".join(f"{key}={shlex.quote(value)}" for key, value in CPU_ENV.items())
    text = SCRIPT.format(
        env=env, name=name, variable=name.upper().replace("-", "_"), port=free_port(), args=shlex.join(CPU_ARGS),
        exec=exec, home=home, saver=saver,
    )  # fmt: skip
    (folder / f"{name}.sh").write_text(text)
    return f"{name}.sh"


def test_scripts_with_and_without_exec_answer_in_turn_and_leave_nothing_behind(sglang_home, tmp_path):
    """tiny-a sleeps at level 2 and is read from disk again, which its MODEL_NAME does not name; tiny-b at level 1."""
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    scripts = (
        write(tmp_path, sglang_home, "tiny-a", exec="", saver="--enable-memory-saver"),
        write(tmp_path, sglang_home, "tiny-b", exec="exec ", saver="--enable-memory-saver --enable-weights-cpu-backup"),
    )
    with Scripts(tmp_path, *scripts, deadline=DEADLINE) as muxd:
        muxd.until_state("tiny-b", "ready")
        assert muxd.state("tiny-a") == "asleep"
        texts = {name: muxd.ask(name, max_tokens=24) for name in ("org/tiny-b", "org/tiny-a")}
        assert all(texts.values())
        assert texts["org/tiny-a"] != texts["org/tiny-b"]
        for name, stream in (("org/tiny-b", True), ("org/tiny-a", False)):
            assert muxd.ask(name, max_tokens=24, stream=stream) == texts[name]
        assert [muxd.status(name)["restarts"] for name in ("tiny-a", "tiny-b")] == [0, 0]
        assert_never_two_awake(muxd.moves())
        muxd.stop()
        assert muxd.left_behind() == {}
        assert {path.name for path in Path("/dev/shm").iterdir()} == shared
        assert "outlived" not in (tmp_path / "state/logs/tiny-a.stderr.log").read_text(), "it ended by itself"


def test_what_a_script_hides_is_seen_at_a_real_server(sglang_home, tmp_path):
    """Port, model, name and sleep flags are in a file that the script reads when it runs."""
    model, port = f"{sglang_home}/models/tiny-a", free_port()
    saver = "--enable-memory-saver --enable-weights-cpu-backup"
    words = f"--model-path {model} --served-model-name seen --port {port} {saver} --tp-size 1"
    (tmp_path / "words").write_text(words)
    env = " ".join(f"{key}={shlex.quote(value)}" for key, value in CPU_ENV.items())
    command = f"{sglang_home}/venv/bin/python -m sglang.launch_server $(cat words) {shlex.join(CPU_ARGS)}"
    (tmp_path / "tiny-a.sh").write_text(f"export {env}\n{command}\n")
    with Scripts(tmp_path, "tiny-a.sh", deadline=DEADLINE) as muxd:
        assert muxd.status("tiny-a")["served_names"] == ["tiny-a"]
        muxd.until_state("tiny-a", "ready")
        assert muxd.status("tiny-a")["url"] == f"http://127.0.0.1:{port}"
        assert set(muxd.status("tiny-a")["served_names"]) == {model, "seen"}
        assert (muxd.status("tiny-a")["sleep_level"], muxd.status("tiny-a")["reason"]) == (1, None)
        text = muxd.ask("tiny-a", max_tokens=8)
        assert text
        assert muxd.ask("seen", max_tokens=8) == text
        assert muxd.control("POST", "/v1/models/tiny-a/sleep").status_code == 200
        assert muxd.ask("seen", max_tokens=8) == text
        muxd.stop()
        assert muxd.left_behind() == {}
