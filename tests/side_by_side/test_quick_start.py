"""sglangmux's own quick start: its scripts, its flags and `curl`, as they are, under both programs.

The scripts that its README names (examples/sglangmux-manual) were never published with it.
Those in `quick_start` are in the two forms that the README gives for a script, with the
README's model and port; the flags are the README's.  `python` is SGLang simulated.
"""

import fcntl
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.sglangmux.kits import SIMULATION
from bench.sglangmux.programs import MUXD, Program, Run

SCRIPTS = Path(__file__).parent / "quick_start"
QWEN, SMOL = "Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M-Instruct"
PORT, PORTS = 30100, (30100, 30001, 30002)
FLAGS = (
    *("--host", "127.0.0.1"),
    *("--listen-port", str(PORT)),
    *("--upstream-timeout-secs", "120"),
    *("--model-ready-timeout-secs", "120"),
    *("--model-switch-timeout-secs", "60"),
    *("--log-dir", "sglangmux-logs"),
    *(str(SCRIPTS / "model1.sh"), str(SCRIPTS / "model2.sh")),
)

#: What differs on purpose, or with time.
OF_ITS_OWN = {"id", "created", "owned_by"}


@dataclass(frozen=True)
class Reply:
    """What curl wrote."""

    status: int
    content_type: str
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def streamed(self) -> str:
        """The text of a stream, which must end as it should."""
        *events, last = [line.removeprefix("data: ") for line in self.text.splitlines() if line]
        assert last == "[DONE]"
        parts = [choice["delta"].get("content") or "" for event in events for choice in json.loads(event)["choices"]]
        return "".join(parts)


def curl(path: str, body: dict[str, Any] | None = None) -> Reply:
    words = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    form = "\n%{http_code} %{content_type}"
    argv = ["curl", "-sS", "--max-time", "30", "-w", form, f"http://127.0.0.1:{PORT}{path}", *words]
    text, _, last = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    status, _, content_type = last.partition(" ")
    return Reply(int(status), content_type, text)


def chat(model: str, **fields: Any) -> Reply:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16, **fields}
    return curl("/v1/chat/completions", body)


def completion(model: str, **fields: Any) -> Reply:
    return curl("/v1/completions", {"model": model, "prompt": "Hello", "temperature": 0, "max_tokens": 16, **fields})


@contextmanager
def started(program: Program, folder: Path) -> Iterator[Run]:
    """With the quick start's own ports, which one at a time can have."""
    with open(Path(tempfile.gettempdir(), "muxd-quick-start.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if taken := [port for port in PORTS if is_taken(port)]:
            pytest.skip(f"the quick start's own ports are in use here: {taken}")
        run = Run(program, SIMULATION, folder, PORT, FLAGS)
        try:
            run.until_active(SMOL, 60)
            yield run
        finally:
            run.end()


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def tour(program: Program, folder: Path) -> dict[str, Reply]:
    """The answers to all commands, in their order."""
    if shutil.which("curl") is None:
        pytest.skip("the quick start's commands are for curl, which is not on this machine")
    with started(program, folder) as run:
        replies = {
            "health": curl("/health"),
            "models": curl("/models"),
            "v1 models": curl("/v1/models"),
            "active": chat(SMOL),
            "switch": chat(QWEN),
            "health after": curl("/health"),
            "stream": chat(QWEN, stream=True),
            "completion": completion(QWEN),
            "switch back": completion(SMOL),
            "stream after a switch": chat(QWEN, stream=True),
            "no model": curl("/v1/chat/completions", {"messages": []}),
            "no such model": chat("no/such-model"),
        }
        assert any((run.folder / "sglangmux-logs").glob("*.stdout.log"))
    return replies


def shape(value: Any) -> Any:
    """All keys of a JSON value, without what differs on purpose."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items() if key not in OF_ITS_OWN}
    return [shape(part) for part in value] if isinstance(value, list) else type(value)


def test_muxd_goes_through_sglangmux_s_quick_start(tmp_path: Path) -> None:
    seen = tour(MUXD, tmp_path)
    assert (seen["health"].json["status"], seen["health"].json["active_model"]) == ("ok", SMOL)
    assert seen["health after"].json["active_model"] == QWEN
    for listing in (seen["models"], seen["v1 models"]):
        assert [card["id"] for card in listing.json["data"]] == ["model1", QWEN, "model2", SMOL]
        fields = {"id", "object", "created", "owned_by", "permission", "root", "parent"}
        assert all(fields <= card.keys() for card in listing.json["data"])
    text = {name: seen[name].json["choices"][0]["message"]["content"] for name in ("active", "switch")}
    assert text["active"].startswith(f"{SMOL}:")
    assert text["switch"] == seen["stream"].streamed == seen["stream after a switch"].streamed
    assert seen["completion"].json["choices"][0]["text"].startswith(f"{QWEN}:")
    assert seen["switch back"].json["choices"][0]["text"].startswith(f"{SMOL}:")
    assert (seen["no model"].status, seen["no such model"].status) == (400, 404)


def test_both_answer_the_quick_start_s_commands_alike(sglangmux: Program, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    theirs, ours = tour(sglangmux, tmp_path / "theirs"), tour(MUXD, tmp_path / "ours")
    for name in ("health", "health after"):
        assert theirs[name].json.items() <= ours[name].json.items(), name
    for name in ("models", "v1 models"):
        listed = {
            our["id"]: our for our in ours[name].json["data"]
        }  # its own names of the models as well, to which theirs point by "root"
        for their in theirs[name].json["data"]:
            our = listed[their["id"]]
            assert their.keys() <= our.keys(), name
            assert {their[key] == our[key] for key in their.keys() - {"created", "owned_by", "root"}} == {True}, name
    for name in ("active", "switch", "completion", "switch back"):
        assert shape(theirs[name].json) == shape(ours[name].json), name
        assert theirs[name].json["choices"] == ours[name].json["choices"], name
    for name in ("stream", "stream after a switch"):
        assert theirs[name].streamed == ours[name].streamed, name
    same = theirs.keys() - {"no such model"}  # 503 there, as if it could come later
    assert {name: theirs[name].status for name in same} == {name: ours[name].status for name in same}
    assert {name: theirs[name].content_type for name in same} == {name: ours[name].content_type for name in same}
    assert (theirs["no such model"].status, ours["no such model"].status) == (503, 404)
