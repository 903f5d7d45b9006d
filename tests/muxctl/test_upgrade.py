import json

import pytest


def version(started, number="0.9"):
    return {"version": number, "pid": 12, "api": 1, "started": started}


@pytest.fixture
def upgraded(muxd):
    """A muxd that answers the order, once more as itself, breaks a connection, and is then another one."""
    answers = iter([version(100.001), None, version(103.0, "1.0")])

    def say(talk):
        answer = next(answers)
        if answer is not None:
            talk.json(answer)

    muxd.scripts["POST /v1/upgrade"] = lambda talk: talk.json({"upgrading": True, **version(100.0)}, 202)
    muxd.scripts["GET /v1/version"] = say
    return muxd


def test_it_waits_until_the_next_muxd_answers(upgraded, muxctl):
    assert muxctl("upgrade") == (0, "muxd (pid 12) is 1.0, which was 0.9\n", "")


def test_as_json(upgraded, muxctl):
    status, said, _ = muxctl("upgrade", "--now", "--json")
    assert (status, json.loads(said)) == (0, {"before": "0.9", "after": "1.0", "pid": 12})


def test_of_the_same_version_it_says_so(muxd, muxctl):
    muxd.scripts["POST /v1/upgrade"] = lambda talk: talk.json({"upgrading": True, **version(100.0)}, 202)
    muxd.scripts["GET /v1/version"] = lambda talk: talk.json(version(103.0))
    assert muxctl("upgrade") == (0, "muxd (pid 12) is 0.9 again\n", "")


def test_a_refusal_says_why(muxd, muxctl):
    why = "the muxd that is installed now would not start: no module; nothing was changed"
    muxd.scripts["POST /v1/upgrade"] = lambda talk: talk.error(409, "handover_refused", why)
    assert muxctl("upgrade") == (1, "", f"muxctl: {why}\n")
