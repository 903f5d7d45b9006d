import json
import signal

import pytest

from .fake_muxd import stream_of

EVENTS = [
    {"id": 1, "time": 86400.0, "type": "muxd_started", "version": "0.1.0", "pid": 42},
    {"id": 2, "time": 86401.5, "type": "state", "model": "qwen", "from": "unloaded", "to": "starting", "reason": None},
    {"type": "gap", "missed": 7},
    {"id": 10, "time": 90000.0, "type": "state", "model": "qwen", "from": "ready", "to": "failed", "reason": "it died"},
    {"id": 11, "time": 90001.0, "type": "operator", "model": "qwen", "order": "stop"},
    {"id": 12, "time": 90002.0, "type": "reload", "restart": ["qwen", "b"], "add": [], "plan": [{"model": "c\x1b"}]},
    {
        "id": 12,
        "time": 90002.0,
        "type": "reload",
        "plan": [{"model": "a", "action": "restart", "changes": ["args"]}, {"model": "c\x1b", "action": "add"}],
    },
    {"id": 13, "type": "of tomorrow", "model": None, "from": ["a"], "to": None, "deep": {"er": 1}},
    {},
]
SHOWN = """\
1970-01-02T00:00:00+00:00 muxd_started version=0.1.0 pid=42
1970-01-02T00:00:01+00:00 state qwen unloaded -> starting
... 7 events were missed
1970-01-02T01:00:00+00:00 state qwen ready -> failed reason="it died"
1970-01-02T01:00:01+00:00 operator qwen order=stop
1970-01-02T01:00:02+00:00 reload restart=qwen,b add=- plan=[{"model": "c\\u001b"}]
1970-01-02T01:00:02+00:00 reload plan=a:restart,c :add
? of tomorrow a -> null deep={"er": 1}
? event
"""


@pytest.fixture
def tells(muxd):
    def tells(target, *events, then_wait=False):
        muxd.scripts[f"GET {target}"] = stream_of(*events, then_wait=then_wait)

    return tells


def test_each_event_is_a_line_and_the_last_one_ends_it(tells, muxd, process):
    tells("/v1/events?after=0&follow=0", *EVENTS)
    child = process("--socket", str(muxd.path), "events")
    assert child.communicate(timeout=20) == (SHOWN, "")
    assert child.returncode == 0


def test_json_is_every_event_as_it_came(tells, muxctl):
    tells("/v1/events?after=1&follow=0", *EVENTS[1:])
    code, out, _ = muxctl("events", "--after", "1", "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, EVENTS[1:])


def test_following_goes_on_until_an_interrupt_and_ends_quietly(tells, muxd, process):
    tells("/v1/events?after=0&follow=1", EVENTS[0], then_wait=True)
    child = process("--socket", str(muxd.path), "events", "-f")
    assert child.stdout.readline() == SHOWN.splitlines(keepends=True)[0]
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20) == ("", "")
    assert child.returncode == 130


def test_following_says_when_muxd_has_ended(tells, muxctl):
    tells("/v1/events?after=0&follow=1")
    assert muxctl("events", "-f") == (7, "", "muxctl: muxd has ended\n")


def test_a_reader_that_closes_its_pipe_is_no_error(tells, muxd, process):
    tells("/v1/events?after=0&follow=1", *EVENTS * 5000)
    child = process("--socket", str(muxd.path), "events", "-f")
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(20) == 141


def test_what_is_wanted_is_asked_of_muxd(tells, muxctl):
    tells("/v1/events?after=0&follow=0&model=a%2Fb&type=switch%2Cstate&lines=3&since=86400.0&until=86460.0", EVENTS[1])
    words = ("--type", "switch,state", "-n", "3", "--since", "1970-01-02 00:00", "--until", "1970-01-02 00:01")
    code, out, _ = muxctl("events", "a/b", *words)
    assert (code, len(out.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "never"), "--since: 'never' is no time; write \"10min\" ago"),
        (("-n", "all"), "'all' is not a number of events"),
        (("--after", "x"), "'x' is no event's id: a number, as --json shows it"),
    ],
)
def test_bad_words_are_told(muxctl, words, said):
    code, _, err = muxctl("events", *words)
    assert code == 2
    assert said in err
