import json
import signal

import pytest

from tests.muxctl.fake_muxd import FakeMuxd
from tests.muxctl.test_status import ASLEEP, BACKOFF, READY, STATUS


@pytest.fixture
def looks(muxd):
    """Make one look after the other see these; the last one is seen for ever."""

    def looks(target, *values):
        left = list(values)
        muxd.scripts[f"GET {target}"] = lambda talk: talk.json(left.pop(0) if len(left) > 1 else left[0])

    return looks


@pytest.fixture
def watch(muxd, process):
    def watch(*argv):
        return process("--socket", str(muxd.path), "status", "--watch", "0.1", *argv, env={"LC_ALL": "C.UTF-8"})

    return watch


def block(child, last) -> list[str]:
    """The next block of a pipe without its first line, the time, as far as the line that begins with `last`."""
    assert child.stdout.readline().startswith("--- ")
    lines = [child.stdout.readline()]
    while not lines[-1].startswith(last):
        assert lines[-1], child.stderr.read()
        lines.append(child.stdout.readline())
    return [line.rstrip("\n") for line in lines]


def ended_by_interrupt(child):
    child.send_signal(signal.SIGINT)
    return child.communicate(timeout=20), child.returncode


def test_a_pipe_gets_a_block_when_more_than_the_clock_has_changed(looks, watch):
    later = STATUS | {"uptime_s": 7800, "models": [READY | {"since_s": 3000}, ASLEEP | {"eta_s": 60.0}]}
    first = STATUS | {"models": [READY, ASLEEP]}
    looks("/v1/status", first, later, first | {"models": [BACKOFF]})
    child = watch()
    assert block(child, "mistral-small")[-2].split()[:3] == ["qwen", "ready", "12s"]
    assert block(child, "broken ")[-2].startswith("MODEL ")
    assert ended_by_interrupt(child) == (("", ""), 0)


def test_one_model_can_be_watched_and_its_name_may_follow_the_option(looks, muxd, process):
    looks("/v1/models/qwen", READY)
    child = process("--socket", str(muxd.path), "status", "--watch", "qwen")
    assert block(child, "last exit:")[:2] == ["model:         qwen", "state:         ready for 12s"]
    assert ended_by_interrupt(child) == (("", ""), 0)


def test_json_is_one_object_a_line_at_every_look(looks, watch):
    looks("/v1/models/broken", BACKOFF)
    child = watch("broken", "--json")
    lines = [child.stdout.readline() for _ in range(3)]
    assert [json.loads(line) for line in lines] == [BACKOFF] * 3
    assert '": ' not in lines[0]
    assert ended_by_interrupt(child)[1] == 0


def test_a_restart_of_muxd_is_waited_for(looks, watch, muxd, short_dir):
    looks("/v1/status", STATUS)
    child, data = watch(), watch("--json")
    assert block(child, "broken ")[0].startswith("muxd 0.1.0")
    assert json.loads(data.stdout.readline()) == STATUS
    muxd.close()
    assert block(child, "muxd ") == [
        f"muxd is not running: stale socket {muxd.path}: muxd died; start it again and it replaces the socket; "
        "waiting for it"
    ]
    while "error" not in (line := json.loads(data.stdout.readline())):
        pass
    assert line["error"]["code"] == "muxd_unreachable"
    muxd.path.unlink()
    assert block(child, "muxd ")[0].startswith(
        f"muxd is not running: no socket at {muxd.path}; start it with muxd start"
    )
    again = FakeMuxd(short_dir / "muxd.sock")
    try:
        again.scripts["GET /v1/status"] = lambda talk: talk.json(STATUS | {"version": "0.2.0"})
        assert block(child, "broken ")[0].startswith("muxd 0.2.0")
        assert ended_by_interrupt(child) == (("", ""), 0)
    finally:
        again.close()


def test_a_muxd_that_is_not_there_yet_is_waited_for_too(elsewhere, process):
    child = process("status", "--watch", "0.1", "--socket", str(elsewhere / "none.sock"))
    assert block(child, "muxd ")[0].startswith("muxd is not running: no socket at ")
    assert ended_by_interrupt(child) == (("", ""), 0)


@pytest.mark.parametrize(("status", "code", "exit_code"), [(404, "model_not_found", 4), (403, "permission_denied", 5)])
def test_what_does_not_pass_is_not_waited_for(muxd, muxctl, status, code, exit_code):
    muxd.scripts["GET /v1/models/qwn"] = lambda talk: talk.error(status, code, "no, because")
    assert muxctl("status", "qwn", "--watch") == (exit_code, "", "muxctl: no, because\n")


def test_a_reader_that_closes_its_pipe_is_noticed_though_nothing_changes(looks, watch):
    looks("/v1/status", STATUS)
    child = watch()
    block(child, "broken ")
    child.stdout.close()
    assert child.wait(20) == 141
    assert child.stderr.read() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ("0", "--watch takes 0.1 to 86400 seconds, not 0"),
        ("1e9", "--watch takes 0.1 to 86400 seconds, not 1e9"),
        ("5min", "--watch takes seconds, not 5min"),
    ],
)
def test_seconds_that_are_none_are_a_usage_error(muxctl, seconds, said):
    assert muxctl("status", "qwen", "--watch", seconds) == (2, "", f"muxctl: {said}\n")


def test_two_names_are_a_usage_error(muxctl):
    assert muxctl("status", "qwen", "--watch", "beta") == (2, "", "muxctl: --watch takes seconds, not beta\n")
